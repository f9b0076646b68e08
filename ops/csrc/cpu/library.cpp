// The library's C functions: choice of the instruction set, threads.
#include <cstdlib>
#include <new>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "problem.h"

namespace greedyprune {

namespace {

constexpr size_t kHuge = size_t(1) << 21;

// Asks for pages of 2 MB where `memory` holds whole ones. Fresh memory comes a page at a time, which for the gradient of
// a batch took longer than all the arithmetic; and reads that jump about miss in the table of small pages.
void ask_for_huge_pages(void *memory, size_t bytes) {
#if defined(__linux__)
  const uintptr_t from = reinterpret_cast<uintptr_t>(memory), first = (from + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (from + bytes) / kHuge * kHuge;
  if (first < end) madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

}  // namespace

Scratch::~Scratch() {
  for (void *memory : memory_) std::free(memory);
}

void *Scratch::get(Slot slot, size_t bytes) {
  if (bytes <= bytes_[slot]) return memory_[slot];
  const size_t unit = bytes >= kHuge ? kHuge : 64;
  const size_t whole = (bytes + unit - 1) / unit * unit;
  std::free(memory_[slot]);
  memory_[slot] = std::aligned_alloc(unit, whole);
  bytes_[slot] = memory_[slot] ? whole : 0;
  if (memory_[slot] && unit == kHuge) ask_for_huge_pages(memory_[slot], whole);
  return memory_[slot];
}

namespace {

enum Isa { kAuto, kGeneric, kAvx2, kAvx512 };

bool has(int isa) {
  if (isa == kAuto || isa == kGeneric) return true;
#ifdef GREEDYPRUNE_X86
  if (isa == kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
  return false;
}

int best() {
  for (int isa = kAvx512; isa > kGeneric; --isa)
    if (has(isa)) return isa;
  return kGeneric;
}

const Kernels<float> &pick(int isa, float) {
#ifdef GREEDYPRUNE_X86
  if (isa == kAuto) isa = best();
  if (isa == kAvx512) return kAvx512Float;
  if (isa == kAvx2) return kAvx2Float;
#endif
  return kGenericFloat;
}

const Kernels<double> &pick(int, double) { return kGenericDouble; }

// Kept from call to call (8 MB for an encoder at 800 x 1066): the system would clear every page of it anew, which took
// a sixth of the time.
Scratch &scratch_of_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

// Calls job(part, parts) -> bool on up to `threads` threads; false where one of them failed.
template <class Job>
bool in_parallel(int64_t threads, const Job &job) {
  bool good = true;
#ifdef _OPENMP
#pragma omp parallel num_threads(static_cast<int>(threads)) reduction(&& : good) if (threads > 1)
  good = job(omp_get_thread_num(), omp_get_num_threads());
#else
  (void)threads;
  good = job(0, 1);
#endif
  return good;
}

template <class T>
int forward(const Problem &p, const T *value, const T *locations, const T *weights, T *out, int threads, int isa) {
  if (!has(isa)) return 2;
  const Kernels<T> &kernels = pick(isa, T());
  const int64_t units = p.batch * p.heads * p.queries, most = units / 64 + 1;
  const bool good = in_parallel(threads < most ? threads : most, [&](int64_t part, int64_t parts) {
    Scratch &scratch = scratch_of_thread();
    return kernels.forward(p, value, locations, weights, out, units * part / parts, units * (part + 1) / parts, scratch);
  });
  return good ? 0 : 1;
}

template <class T>
int backward(const Problem &p, const T *grad_out, const T *value, const T *locations, const T *weights, T *grad_value,
             T *grad_locations, T *grad_weights, int threads, int isa) {
  if (!has(isa)) return 2;
  const Kernels<T> &kernels = pick(isa, T());
  const int64_t bytes = p.batch * p.tokens * p.heads * p.channels * sizeof(T), pieces = bytes / (1 << 18) + 1;
  ask_for_huge_pages(grad_value, bytes);
  in_parallel(threads < pieces ? threads : pieces, [&](int64_t part, int64_t parts) {
    kernels.clear(p, grad_value, part, parts);
    return true;
  });
  // With threads to spare, every level is a task of its own; its gradients come out the same.
  const int64_t heads = p.batch * p.heads, span = heads >= threads ? p.levels : 1;
  const int64_t tasks = heads * (p.levels / span);
  int64_t next = 0;
  const bool good = in_parallel(threads < tasks ? threads : tasks, [&](int64_t, int64_t) {
    Scratch &scratch = scratch_of_thread();
    for (;;) {
      // The first levels, which are the largest, come first.
      const int64_t task = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
      if (task >= tasks) return true;
      const int64_t level = task / heads;
      if (!kernels.backward(p, grad_out, value, locations, weights, grad_value, grad_locations, grad_weights,
                            task % heads, level, level + span, scratch))
        return false;
    }
  });
  return good ? 0 : 1;
}

}  // namespace
}  // namespace greedyprune

// Sizes come as [batch, tokens, heads, channels, queries, levels, points]. `isa`: 0 the best there is, 1 generic,
// 2 AVX2, 3 AVX-512. Returned: 0 done, 1 no memory, 2 the processor has no such instructions.
#define GREEDYPRUNE_EXPORT extern "C" __attribute__((visibility("default")))

#define GREEDYPRUNE_FUNCTIONS(T, NAME)                                                                               \
  GREEDYPRUNE_EXPORT int greedyprune_forward_##NAME(const int64_t *n, const int64_t *shapes, const T *value,                  \
                                            const T *locations, const T *weights, T *out, int threads, int isa) {     \
    const greedyprune::Problem p = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], shapes};                                \
    return greedyprune::forward<T>(p, value, locations, weights, out, threads, isa);                                  \
  }                                                                                                                   \
  GREEDYPRUNE_EXPORT int greedyprune_backward_##NAME(const int64_t *n, const int64_t *shapes, const T *grad_out,              \
                                             const T *value, const T *locations, const T *weights, T *grad_value,     \
                                             T *grad_locations, T *grad_weights, int threads, int isa) {              \
    const greedyprune::Problem p = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], shapes};                                \
    return greedyprune::backward<T>(p, grad_out, value, locations, weights, grad_value, grad_locations, grad_weights, \
                                    threads, isa);                                                                    \
  }

GREEDYPRUNE_FUNCTIONS(float, float32)
GREEDYPRUNE_FUNCTIONS(double, float64)

// Raised whenever a function here changes what it takes; the Python side refuses a library with another number.
GREEDYPRUNE_EXPORT int greedyprune_interface() { return 1; }

// 1 where this processor runs `isa`.
GREEDYPRUNE_EXPORT int greedyprune_has(int isa) { return greedyprune::has(isa); }
