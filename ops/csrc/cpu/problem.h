// What the parts of the CPU implementation share. No PyTorch here: the library is plain C functions over pointers, so
// that it outlives PyTorch's own ABI.
#pragma once
#include <cstddef>
#include <cstdint>

namespace greedyprune {

// The sizes of one call. Every tensor is contiguous and ordered as in the Python face:
// value [batch, tokens, heads, channels], locations [batch, queries, heads, levels, points, 2],
// weights [batch, queries, heads, levels, points], out [batch, queries, heads * channels].
struct Problem {
  int64_t batch, tokens, heads, channels, queries, levels, points;
  const int64_t *shapes;  // [levels, 2]: height, width
};

// The integer of a number's size.
template <int kBytes>
struct Integer;
template <>
struct Integer<4> {
  using type = int32_t;
};
template <>
struct Integer<8> {
  using type = int64_t;
};

// Memory that a thread keeps; each slot only grows.
class Scratch {
 public:
  enum Slot { kTaken, kSamples, kLevels, kValue, kGradient, kSums, kFloors, kSlots };
  Scratch() = default;
  Scratch(const Scratch &) = delete;
  ~Scratch();
  // At least `bytes` bytes, aligned to a cache line; nullptr where there is no memory.
  void *get(Slot slot, size_t bytes);

 private:
  void *memory_[kSlots] = {};
  size_t bytes_[kSlots] = {};
};

// The jobs of one instruction set. They return false where there is no memory.
template <class T>
struct Kernels {
  // Queries `begin` to `end` of the flat order (batch, head, query).
  bool (*forward)(const Problem &, const T *value, const T *locations, const T *weights, T *out, int64_t begin,
                  int64_t end, Scratch &);
  // Part `part` of `parts` of what has to be cleared before the first `backward`.
  void (*clear)(const Problem &, T *grad_value, int64_t part, int64_t parts);
  // All queries of levels `first` to `last` of one (batch, head), task = b * heads + h: the tokens of a level of a head of
  // an image get their gradients from no other task, so nothing races and the order of the additions is always the same.
  bool (*backward)(const Problem &, const T *grad_out, const T *value, const T *locations, const T *weights,
                   T *grad_value, T *grad_locations, T *grad_weights, int64_t task, int64_t first, int64_t last,
                   Scratch &);
};

extern const Kernels<float> kGenericFloat;
extern const Kernels<double> kGenericDouble;
#if defined(__x86_64__)
#define GREEDYPRUNE_X86 1
extern const Kernels<float> kAvx2Float;
extern const Kernels<float> kAvx512Float;
#endif

}  // namespace greedyprune
