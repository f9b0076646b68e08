// The shipped backward kernel.
#include "fast.cuh"

namespace greedyprune {
namespace {

// Adds to `to` in memory: four or two numbers at once where the architecture can (9.0 on).
template <int kVector>
__device__ inline void add(float *to, const float (&numbers)[kVector]) {
#if __CUDA_ARCH__ >= 900
  if constexpr (kVector % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kVector; i += 4)
      atomicAdd(reinterpret_cast<float4 *>(to + i),
                make_float4(numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3]));
    return;
  } else if constexpr (kVector == 2) {
    atomicAdd(reinterpret_cast<float2 *>(to), make_float2(numbers[0], numbers[1]));
    return;
  }
#endif
#pragma unroll
  for (int i = 0; i < kVector; ++i) atomicAdd(to + i, numbers[i]);
}

// Sums three numbers over the threads of a group. Thread 0 gets the first, 1 the second, 2 the third: at each of the
// first two steps a thread gives away the half that it will not end with, which takes half the exchanges.
__device__ inline float sum_three(float first, float second, float third, int lane, int group) {
  constexpr unsigned kAll = 0xffffffffu;
  const bool odd = lane & 1, high = lane & 2;
  float keep = odd ? second : first;
  float other = odd ? 0.f : third;
  keep += __shfl_xor_sync(kAll, odd ? first : second, 1);
  other += __shfl_xor_sync(kAll, odd ? third : 0.f, 1);
  const float given = __shfl_xor_sync(kAll, high ? keep : other, 2);
  keep = (high ? other : keep) + given;
  for (int step = 4; step < group; step *= 2) keep += __shfl_xor_sync(kAll, keep, step);
  return keep;
}

template <class V, int kVector, int kLoads>
__global__ void __launch_bounds__(kThreads, blocks_at_once(kVector * kLoads))
    backward_kernel(const Problem p, int group, const V *__restrict__ grad_out, const V *__restrict__ value,
                    const float *__restrict__ locations, const float *__restrict__ weights,
                    float *__restrict__ grad_value, float *__restrict__ grad_locations,
                    float *__restrict__ grad_weights) {
  extern __shared__ float4 memory[];
  const int pairs = kThreads / group;
  // [pairs, kPitch]: fractions x and y and the weight; when a sample is done, the gradients of its x, y and weight
  float4 *const places = memory;
  int4 *const offsets = reinterpret_cast<int4 *>(memory + pairs * kPitch);  // [pairs, kPitch]; -1: outside
  const Seat seat = take_seat(p, group);
  const int row = static_cast<int>(p.heads * p.channels), channels = static_cast<int>(p.channels);
  const int samples = static_cast<int>(p.levels * p.points), points = static_cast<int>(p.points);
  const int64_t first = seat.image * p.tokens * row + seat.head * channels;
  const V *const base = value + first;
  float *const target = grad_value + first;

  float given[kLoads][kVector];
#pragma unroll
  for (int load = 0; load < kLoads; ++load) {
    const int channel = (seat.lane + load * group) * kVector;
    Pack<V, kVector> pack;
    pack.zero();
    if (seat.valid && channel < channels) pack.load(grad_out + seat.owner * channels + channel);
    pack.widen_to(given[load]);
  }

  for (int stage = 0; stage < samples; stage += kStage) {
    const int count = min(kStage, samples - stage);
    for (int i = threadIdx.x; i < pairs * kStage; i += kThreads) {
      const int pair = i / kStage, sample = i % kStage;
      float4 record = make_float4(0.f, 0.f, 0.f, 0.f);
      int4 offset = make_int4(-1, -1, -1, -1);
      if (sample < count && seat.first_query + pair < p.queries) {
        const int64_t owner = (seat.image * p.queries + seat.first_query + pair) * p.heads + seat.head;
        const int64_t at = owner * samples + stage + sample;
        const float2 location = __ldg(reinterpret_cast<const float2 *>(locations) + at);
        const Place<float> here = place<float>(p, (stage + sample) / points, location.x, location.y);
        record = make_float4(here.x, here.y, __ldg(weights + at), 0.f);
        offset = offsets_of(here, row);
      }
      places[pair * kPitch + sample] = record;
      offsets[pair * kPitch + sample] = offset;
    }
    __syncthreads();

    for (int sample = 0; sample < count; ++sample) {
      const float4 here = places[seat.pair * kPitch + sample];
      const int4 offset = offsets[seat.pair * kPitch + sample];
      const int offset_of[4] = {offset.x, offset.y, offset.z, offset.w};
      const float lower_share = here.z * here.y, upper_share = here.z - lower_share;
      const float share_of[4] = {upper_share * (1 - here.x), upper_share * here.x, lower_share * (1 - here.x),
                                 lower_share * here.x};
      float dot[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int load = 0; load < kLoads; ++load) {
        const int channel = (seat.lane + load * group) * kVector;
        const bool mine = channel < channels;
        Pack<V, kVector> corner[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          corner[k].zero();
          if (mine && offset_of[k] >= 0) corner[k].load(base + offset_of[k] + channel);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float numbers[kVector];
          corner[k].widen_to(numbers);
#pragma unroll
          for (int i = 0; i < kVector; ++i) {
            dot[k] = fmaf(given[load][i], numbers[i], dot[k]);
            numbers[i] = share_of[k] * given[load][i];
          }
          if (mine && offset_of[k] >= 0) add<kVector>(target + offset_of[k] + channel, numbers);
        }
      }
      const float upper = fmaf(here.x, dot[1] - dot[0], dot[0]), lower = fmaf(here.x, dot[3] - dot[2], dot[2]);
      const float by_x = here.z * fmaf(here.y, (dot[3] - dot[2]) - (dot[1] - dot[0]), dot[1] - dot[0]);
      const float sum = sum_three(by_x, here.z * (lower - upper), fmaf(here.y, lower - upper, upper), seat.lane, group);
      __syncwarp();  // all of the group have read the record that is overwritten
      if (seat.lane < 3) reinterpret_cast<float *>(places + seat.pair * kPitch + sample)[seat.lane] = sum;
    }
    __syncthreads();

    for (int i = threadIdx.x; i < pairs * kStage; i += kThreads) {
      const int pair = i / kStage, sample = i % kStage;
      if (sample >= count || seat.first_query + pair >= p.queries) continue;
      const int64_t owner = (seat.image * p.queries + seat.first_query + pair) * p.heads + seat.head;
      const int64_t at = owner * samples + stage + sample;
      const int level = (stage + sample) / points;
      const float4 result = places[pair * kPitch + sample];
      reinterpret_cast<float2 *>(grad_locations)[at] =
          make_float2(result.x * p.width[level], result.y * p.height[level]);
      grad_weights[at] = result.z;
    }
    __syncthreads();
  }
}

}  // namespace

template <class V>
bool fast_backward(const Call &call) {
  const void *const pointers[] = {call.value, call.grad_out};
  // Without additions of four numbers, neighbouring threads had better add to neighbouring numbers.
  const int widest = call.architecture >= 90 || call.vector ? 16 / sizeof(V) : 8 / sizeof(float);
  const Plan plan = make_plan<V>(call, widest, pointers, 2);
  return aligned(call.locations, sizeof(float2)) && aligned(call.grad_locations, sizeof(float2)) &&
         aligned(call.grad_value, 16) && with_plan<V>(plan, [&](auto vector, auto loads) {
           backward_kernel<V, decltype(vector)::value, decltype(loads)::value>
               <<<count_blocks(call.problem, plan.group), kThreads, shared_bytes(plan.group), call.stream>>>(
                   call.problem, plan.group, static_cast<const V *>(call.grad_out), static_cast<const V *>(call.value),
                   static_cast<const float *>(call.locations), static_cast<const float *>(call.weights),
                   static_cast<float *>(call.grad_value), static_cast<float *>(call.grad_locations),
                   static_cast<float *>(call.grad_weights));
         });
}

template bool fast_backward<float>(const Call &);
template bool fast_backward<__half>(const Call &);
template bool fast_backward<__nv_bfloat16>(const Call &);

}  // namespace greedyprune
