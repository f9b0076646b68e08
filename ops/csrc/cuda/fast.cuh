// What the shipped kernels share. A group of 4 to 32 threads does one head of one query; a block does as many queries
// of one head as it has groups, neighbours in the image, whose samples meet in the first-level cache. The block's
// threads first work out all samples together and leave them in shared memory, so that no thread does it twice.
#pragma once
#include <type_traits>

#include "problem.cuh"

namespace greedyprune {

constexpr int kThreads = 256;
constexpr int kStage = 16;          // samples of a query that are in shared memory at once
constexpr int kPitch = kStage + 1;  // an odd number of 16-byte words: groups read from different banks

// Blocks that a multiprocessor must be able to hold, by the channels of a thread: so few that nothing has to spill into
// memory. ptxas left alone, or asked for more, trades spills for blocks.
constexpr int blocks_at_once(int channels) { return channels <= 12 ? 2 : 1; }

// kVector numbers that one load takes, and what they are in float32.
template <int kBytes>
struct Word;
template <>
struct Word<2> {
  using type = unsigned short;
};
template <>
struct Word<4> {
  using type = unsigned;
};
template <>
struct Word<8> {
  using type = uint2;
};
template <>
struct Word<16> {
  using type = uint4;
};

template <class V, int kVector>
struct Pack {
  using word_t = typename Word<kVector * sizeof(V)>::type;
  word_t word;

  __device__ void load(const V *from) { word = __ldg(reinterpret_cast<const word_t *>(from)); }
  __device__ void zero() { word = word_t{}; }
  __device__ void store(V *to) const { *reinterpret_cast<word_t *>(to) = word; }
  __device__ void widen_to(float (&to)[kVector]) const {
    const V *const numbers = reinterpret_cast<const V *>(&word);
#pragma unroll
    for (int i = 0; i < kVector; ++i) to[i] = widen(numbers[i]);
  }
  __device__ void narrow_from(const float (&from)[kVector]) {
    V *const numbers = reinterpret_cast<V *>(&word);
#pragma unroll
    for (int i = 0; i < kVector; ++i) narrow(from[i], numbers[i]);
  }
};

// Where a thread of a block is: which query of which head of which image, and which part of its channels.
struct Seat {
  int64_t image, head, first_query, owner;  // owner: of the flat (batch, query, head)
  int query, pair, lane;                    // query: of the block's own; pair = query
  bool valid;                               // the last block's groups may be too many
};

__device__ inline Seat take_seat(const Problem &p, int group) {
  const int pairs = kThreads / group;
  const int64_t blocks = (p.queries + pairs - 1) / pairs;  // of one head
  Seat seat;
  seat.first_query = blockIdx.x % blocks * pairs;
  seat.head = blockIdx.x / blocks % p.heads;
  seat.image = blockIdx.x / blocks / p.heads;
  seat.pair = threadIdx.x / group;
  seat.lane = threadIdx.x % group;
  seat.valid = seat.first_query + seat.pair < p.queries;
  seat.owner = (seat.image * p.queries + seat.first_query + seat.pair) * p.heads + seat.head;
  return seat;
}

// Offsets of the corners' rows of `row` numbers; -1: outside.
__device__ inline int4 offsets_of(const Place<float> &here, int row) {
  return make_int4(here.token[0] < 0 ? -1 : here.token[0] * row, here.token[1] < 0 ? -1 : here.token[1] * row,
                   here.token[2] < 0 ? -1 : here.token[2] * row, here.token[3] < 0 ? -1 : here.token[3] * row);
}

// How a head's channels are shared out: `vector` of them per load, `group` threads, `loads` loads per thread.
struct Plan {
  int vector, group, loads;
};

inline bool aligned(const void *pointer, int bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

// The widest load of `widths` that channels and pointers allow, then the least idle group; loads = 0: beyond these
// kernels.
template <class V>
Plan make_plan(const Call &call, int widest, const void *const *pointers, int count) {
  const Problem &p = call.problem;
  constexpr int kWidest = 16 / sizeof(V);
  int vector = 1;
  for (int candidate : {kWidest, 2}) {
    bool fits = candidate <= widest && p.channels % candidate == 0;
    for (int i = 0; i < count; ++i) fits = fits && aligned(pointers[i], candidate * static_cast<int>(sizeof(V)));
    if (fits && (!call.vector || call.vector == candidate)) {
      vector = candidate;
      break;
    }
  }
  const int64_t chunks = (p.channels + vector - 1) / vector;
  Plan best = {vector, 0, 0};
  for (int group = vector == 1 ? 8 : 4; group <= 32; group *= 2) {
    const int64_t loads = (chunks + group - 1) / group;
    if (loads > 4 || (call.group && call.group != group)) continue;
    if (!best.loads || loads * group <= best.loads * best.group) best = {vector, group, static_cast<int>(loads)};
  }
  // Offsets within an image are 32 bits wide.
  if (p.tokens * p.heads * p.channels >= INT32_MAX) best.loads = 0;
  return best;
}

inline unsigned count_blocks(const Problem &p, int group) {
  const int pairs = kThreads / group;
  return static_cast<unsigned>(p.batch * p.heads * ((p.queries + pairs - 1) / pairs));
}

inline size_t shared_bytes(int group) { return size_t(kThreads / group) * kPitch * (sizeof(float4) + sizeof(int4)); }

// Calls `launch` with the plan's numbers as types: `decltype(vector)::value` and `decltype(loads)::value`.
template <class V, class Launch>
bool with_plan(const Plan &plan, const Launch &launch) {
  const auto with_vector = [&](auto vector) {
    switch (plan.loads) {
      case 1: launch(vector, std::integral_constant<int, 1>()); return true;
      case 2: launch(vector, std::integral_constant<int, 2>()); return true;
      case 3: launch(vector, std::integral_constant<int, 3>()); return true;
      case 4: launch(vector, std::integral_constant<int, 4>()); return true;
      default: return false;
    }
  };
  constexpr int kWidest = 16 / sizeof(V);
  if (plan.vector == kWidest) return with_vector(std::integral_constant<int, kWidest>());
  if (plan.vector == 2) return with_vector(std::integral_constant<int, 2>());
  return with_vector(std::integral_constant<int, 1>());
}

}  // namespace greedyprune
