// The shipped forward kernel.
#include "fast.cuh"

namespace greedyprune {
namespace {

template <class V, int kVector, int kLoads>
__global__ void __launch_bounds__(kThreads, blocks_at_once(kVector * kLoads))
    forward_kernel(const Problem p, int group, const V *__restrict__ value, const float *__restrict__ locations,
                   const float *__restrict__ weights, V *__restrict__ out) {
  extern __shared__ float4 memory[];
  const int pairs = kThreads / group;
  float4 *const shares = memory;                                       // [pairs, kPitch]: the corners' weights
  int4 *const offsets = reinterpret_cast<int4 *>(memory + pairs * kPitch);  // [pairs, kPitch]; -1: outside
  const Seat seat = take_seat(p, group);
  const int row = static_cast<int>(p.heads * p.channels), channels = static_cast<int>(p.channels);
  const int samples = static_cast<int>(p.levels * p.points), points = static_cast<int>(p.points);
  const V *const base = value + seat.image * p.tokens * row + seat.head * channels;
  float sum[kLoads][kVector] = {};

  for (int stage = 0; stage < samples; stage += kStage) {
    const int count = min(kStage, samples - stage);
    for (int i = threadIdx.x; i < pairs * kStage; i += kThreads) {
      const int pair = i / kStage, sample = i % kStage;
      if (sample >= count || seat.first_query + pair >= p.queries) continue;
      const int64_t owner = (seat.image * p.queries + seat.first_query + pair) * p.heads + seat.head;
      const int64_t at = owner * samples + stage + sample;
      const float2 location = __ldg(reinterpret_cast<const float2 *>(locations) + at);
      const Place<float> here = place<float>(p, (stage + sample) / points, location.x, location.y);
      const float weight = __ldg(weights + at), lower = weight * here.y, upper = weight - lower;
      shares[pair * kPitch + sample] =
          make_float4(upper * (1 - here.x), upper * here.x, lower * (1 - here.x), lower * here.x);
      offsets[pair * kPitch + sample] = offsets_of(here, row);
    }
    __syncthreads();
    if (seat.valid) {
#pragma unroll 2
      for (int sample = 0; sample < count; ++sample) {
        const float4 share = shares[seat.pair * kPitch + sample];
        const int4 offset = offsets[seat.pair * kPitch + sample];
        const float share_of[4] = {share.x, share.y, share.z, share.w};
        const int offset_of[4] = {offset.x, offset.y, offset.z, offset.w};
#pragma unroll
        for (int load = 0; load < kLoads; ++load) {
          const int channel = (seat.lane + load * group) * kVector;
          Pack<V, kVector> corner[4];  // all four are on their way before the first is needed
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            corner[k].zero();
            if (offset_of[k] >= 0 && channel < channels) corner[k].load(base + offset_of[k] + channel);
          }
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            float numbers[kVector];
            corner[k].widen_to(numbers);
#pragma unroll
            for (int i = 0; i < kVector; ++i) sum[load][i] = fmaf(share_of[k], numbers[i], sum[load][i]);
          }
        }
      }
    }
    __syncthreads();
  }

  if (!seat.valid) return;
#pragma unroll
  for (int load = 0; load < kLoads; ++load) {
    const int channel = (seat.lane + load * group) * kVector;
    if (channel >= channels) continue;
    Pack<V, kVector> result;
    result.narrow_from(sum[load]);
    result.store(out + seat.owner * channels + channel);
  }
}

}  // namespace

template <class V>
bool fast_forward(const Call &call) {
  const void *const pointers[] = {call.value, call.out};
  const Plan plan = make_plan<V>(call, 16 / sizeof(V), pointers, 2);
  return aligned(call.locations, sizeof(float2)) && with_plan<V>(plan, [&](auto vector, auto loads) {
           forward_kernel<V, decltype(vector)::value, decltype(loads)::value>
               <<<count_blocks(call.problem, plan.group), kThreads, shared_bytes(plan.group), call.stream>>>(
                   call.problem, plan.group, static_cast<const V *>(call.value),
                   static_cast<const float *>(call.locations), static_cast<const float *>(call.weights),
                   static_cast<V *>(call.out));
         });
}

template bool fast_forward<float>(const Call &);
template bool fast_forward<__half>(const Call &);
template bool fast_forward<__nv_bfloat16>(const Call &);

}  // namespace greedyprune
