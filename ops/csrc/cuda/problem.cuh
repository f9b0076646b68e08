// What the CUDA kernels share: the sizes of a call, numbers in half precision, where a sample lies.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace greedyprune {

constexpr int kMaxLevels = 64;

// Sizes as in the Python face; tensors are contiguous. The levels come by value, as a kernel's argument.
struct Problem {
  int64_t batch, tokens, heads, channels, queries, levels, points;
  int height[kMaxLevels], width[kMaxLevels];
  int start[kMaxLevels];  // the level's first token
};

// What sums, locations and weights are computed in.
template <class V>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <class V>
using wide_t = typename Wide<V>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ inline void narrow(float x, float &to) { to = x; }
__device__ inline void narrow(double x, double &to) { to = x; }
__device__ inline void narrow(float x, __half &to) { to = __float2half_rn(x); }
__device__ inline void narrow(float x, __nv_bfloat16 &to) { to = __float2bfloat16_rn(x); }

// A sample: the tokens of its corners (top left, top right, bottom left, bottom right; -1 outside the image) and the
// fractions of a pixel from the top left one.
template <class T>
struct Place {
  T x, y;
  int token[4];
};

template <class T>
__device__ inline Place<T> place(const Problem &p, int level, T location_x, T location_y) {
  const int width = p.width[level], height = p.height[level];
  const T x = location_x * width - T(0.5), y = location_y * height - T(0.5);
  Place<T> out = {T(0), T(0), {-1, -1, -1, -1}};
  // False for NaN too: whatever a location is, nothing is read outside the image.
  if (x >= T(-1) && x < T(width) && y >= T(-1) && y < T(height)) {
    const int column = static_cast<int>(floor(x)), row = static_cast<int>(floor(y));
    const int at = p.start[level] + row * width + column;
    const bool left = column >= 0, right = column + 1 < width, top = row >= 0, bottom = row + 1 < height;
    out.x = x - column;
    out.y = y - row;
    if (left && top) out.token[0] = at;
    if (right && top) out.token[1] = at + 1;
    if (left && bottom) out.token[2] = at + width;
    if (right && bottom) out.token[3] = at + width + 1;
  }
  return out;
}

// One job on one stream. Locations and weights are float32 (float64 with a float64 value); so are the gradients, value's
// among them: sums of hundreds of terms do not belong into half precision. grad_value comes zeroed.
struct Call {
  Problem problem;
  const void *value, *locations, *weights, *grad_out;
  void *out, *grad_value, *grad_locations, *grad_weights;
  int vector, group;  // channels a load takes and threads of a query's head; 0: chosen here
  int architecture;   // of the device: 80, 90, ...
  cudaStream_t stream;
};

// One thread per output channel, as the original implementation has it: any size, and the baseline of bench.py.
template <class V>
void plain_forward(const Call &call);
template <class V>
void plain_backward(const Call &call);

// The shipped kernels; false where the sizes are beyond them.
template <class V>
bool fast_forward(const Call &call);
template <class V>
bool fast_backward(const Call &call);

// A cudaError_t: whether a kernel of this library can be loaded on the current device.
int loadable();

}  // namespace greedyprune
