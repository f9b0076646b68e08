// The plain kernels: one thread per output channel, every thread works out every sample for itself.
#include "problem.cuh"

namespace greedyprune {
namespace {

template <class V, class T = wide_t<V>>
__global__ void forward_kernel(const Problem p, const V *__restrict__ value, const T *__restrict__ locations,
                               const T *__restrict__ weights, V *__restrict__ out, int64_t total) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const int64_t channel = index % p.channels, owner = index / p.channels;  // owner: (batch, query, head)
  const int64_t head = owner % p.heads, image = owner / p.heads / p.queries, row = p.heads * p.channels;
  const V *const base = value + image * p.tokens * row + head * p.channels + channel;
  T sum = 0;
  for (int level = 0; level < p.levels; ++level) {
    for (int point = 0; point < p.points; ++point) {
      const int64_t at = (owner * p.levels + level) * p.points + point;
      const Place<T> here = place<T>(p, level, locations[2 * at], locations[2 * at + 1]);
      const T corner[4] = {(1 - here.x) * (1 - here.y), here.x * (1 - here.y), (1 - here.x) * here.y, here.x * here.y};
      T sample = 0;
      for (int k = 0; k < 4; ++k)
        if (here.token[k] >= 0) sample += corner[k] * widen(base[here.token[k] * row]);
      sum += weights[at] * sample;
    }
  }
  narrow(sum, out[index]);
}

// A block is one head of one query; its threads' shares of the gradients of locations and weights are summed by one.
template <class V, class T = wide_t<V>>
__global__ void backward_kernel(const Problem p, const V *__restrict__ grad_out, const V *__restrict__ value,
                                const T *__restrict__ locations, const T *__restrict__ weights,
                                T *__restrict__ grad_value, T *__restrict__ grad_locations,
                                T *__restrict__ grad_weights) {
  extern __shared__ double memory[];
  T *const shares = reinterpret_cast<T *>(memory);  // [threads, 3]
  const int64_t owner = blockIdx.x, head = owner % p.heads, image = owner / p.heads / p.queries;
  const int64_t row = p.heads * p.channels, first = image * p.tokens * row + head * p.channels;
  for (int level = 0; level < p.levels; ++level) {
    for (int point = 0; point < p.points; ++point) {
      const int64_t at = (owner * p.levels + level) * p.points + point;
      const Place<T> here = place<T>(p, level, locations[2 * at], locations[2 * at + 1]);
      const T corner[4] = {(1 - here.x) * (1 - here.y), here.x * (1 - here.y), (1 - here.x) * here.y, here.x * here.y};
      T by_x = 0, by_y = 0, by_weight = 0;
      for (int64_t channel = threadIdx.x; channel < p.channels; channel += blockDim.x) {
        const T given = widen(grad_out[owner * p.channels + channel]);
        T v[4] = {0, 0, 0, 0};
        for (int k = 0; k < 4; ++k) {
          if (here.token[k] < 0) continue;
          const int64_t from = first + here.token[k] * row + channel;
          v[k] = widen(value[from]);
          atomicAdd(grad_value + from, weights[at] * corner[k] * given);
        }
        by_x += given * ((1 - here.y) * (v[1] - v[0]) + here.y * (v[3] - v[2]));
        by_y += given * ((1 - here.x) * (v[2] - v[0]) + here.x * (v[3] - v[1]));
        by_weight += given * (corner[0] * v[0] + corner[1] * v[1] + corner[2] * v[2] + corner[3] * v[3]);
      }
      shares[3 * threadIdx.x] = by_x;
      shares[3 * threadIdx.x + 1] = by_y;
      shares[3 * threadIdx.x + 2] = by_weight;
      __syncthreads();
      if (threadIdx.x == 0) {
        for (unsigned other = 1; other < blockDim.x; ++other) {
          by_x += shares[3 * other];
          by_y += shares[3 * other + 1];
          by_weight += shares[3 * other + 2];
        }
        grad_locations[2 * at] = weights[at] * p.width[level] * by_x;
        grad_locations[2 * at + 1] = weights[at] * p.height[level] * by_y;
        grad_weights[at] = by_weight;
      }
      __syncthreads();
    }
  }
}

}  // namespace

template <class V>
void plain_forward(const Call &call) {
  using T = wide_t<V>;
  const Problem &p = call.problem;
  const int64_t total = p.batch * p.queries * p.heads * p.channels;
  forward_kernel<V><<<static_cast<unsigned>((total + 255) / 256), 256, 0, call.stream>>>(
      p, static_cast<const V *>(call.value), static_cast<const T *>(call.locations),
      static_cast<const T *>(call.weights), static_cast<V *>(call.out), total);
}

template <class V>
void plain_backward(const Call &call) {
  using T = wide_t<V>;
  const Problem &p = call.problem;
  const unsigned threads = p.channels < 256 ? static_cast<unsigned>(p.channels) : 256;
  backward_kernel<V><<<static_cast<unsigned>(p.batch * p.queries * p.heads), threads, 3 * threads * sizeof(T),
                       call.stream>>>(
      p, static_cast<const V *>(call.grad_out), static_cast<const V *>(call.value),
      static_cast<const T *>(call.locations), static_cast<const T *>(call.weights), static_cast<T *>(call.grad_value),
      static_cast<T *>(call.grad_locations), static_cast<T *>(call.grad_weights));
}

int loadable() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, forward_kernel<float>);
  cudaGetLastError();  // it would be reported again by the next launch
  return error;
}

template void plain_forward<float>(const Call &);
template void plain_forward<double>(const Call &);
template void plain_forward<__half>(const Call &);
template void plain_forward<__nv_bfloat16>(const Call &);
template void plain_backward<float>(const Call &);
template void plain_backward<double>(const Call &);
template void plain_backward<__half>(const Call &);
template void plain_backward<__nv_bfloat16>(const Call &);

}  // namespace greedyprune
