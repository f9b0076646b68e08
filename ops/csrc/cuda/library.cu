// The library's C functions.
#include "problem.cuh"

namespace greedyprune {
namespace {

enum Dtype { kFloat32, kFloat16, kBfloat16, kFloat64 };
enum Variant { kShipped, kPlain };

// Makes `device` current for a while, as every call of the runtime here needs.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error = cudaGetDevice(&before_);
    if (error == cudaSuccess && device != before_) error = cudaSetDevice(device);
  }
  ~OnDevice() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  cudaError_t error;

 private:
  int before_ = -1;
};

int architecture_of(int device) {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return 10 * major + minor;
}

Problem describe(const int64_t *sizes, const int64_t *shapes) {
  Problem p = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6], {}, {}, {}};
  int64_t start = 0;
  for (int64_t level = 0; level < p.levels; ++level) {
    p.height[level] = static_cast<int>(shapes[2 * level]);
    p.width[level] = static_cast<int>(shapes[2 * level + 1]);
    p.start[level] = static_cast<int>(start);
    start += shapes[2 * level] * shapes[2 * level + 1];
  }
  return p;
}

struct Forward {
  template <class V>
  static bool fast(const Call &call) { return fast_forward<V>(call); }
  template <class V>
  static void plain(const Call &call) { plain_forward<V>(call); }
  static void take(Call &call, void *const *tensors) { call.out = tensors[0]; }
};

struct Backward {
  template <class V>
  static bool fast(const Call &call) { return fast_backward<V>(call); }
  template <class V>
  static void plain(const Call &call) { plain_backward<V>(call); }
  static void take(Call &call, void *const *tensors) {
    call.grad_out = tensors[0];
    call.grad_value = tensors[1];
    call.grad_locations = tensors[2];
    call.grad_weights = tensors[3];
  }
};

template <class Pass, class V>
void launch(const Call &call, int variant) {
  if (variant == kPlain || !Pass::template fast<V>(call)) Pass::template plain<V>(call);
}

template <class Pass>
int run(int device, void *stream, int dtype, const int64_t *sizes, const int64_t *shapes, void *const *tensors,
        const int *choice) {
  const OnDevice guard(device);
  if (guard.error != cudaSuccess) return guard.error;
  Call call = {};
  call.problem = describe(sizes, shapes);
  call.value = tensors[0];
  call.locations = tensors[1];
  call.weights = tensors[2];
  Pass::take(call, tensors + 3);
  call.vector = choice[1];
  call.group = choice[2];
  call.architecture = architecture_of(device);
  call.stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case kFloat32: launch<Pass, float>(call, choice[0]); break;
    case kFloat16: launch<Pass, __half>(call, choice[0]); break;
    case kBfloat16: launch<Pass, __nv_bfloat16>(call, choice[0]); break;
    default: Pass::template plain<double>(call); break;
  }
  return cudaGetLastError();
}

}  // namespace
}  // namespace greedyprune

#define GREEDYPRUNE_EXPORT extern "C" __attribute__((visibility("default")))

// Sizes come as [batch, tokens, heads, channels, queries, levels, points], levels at most greedyprune_max_levels().
// `tensors`: value, locations, weights, out; backward: value, locations, weights, grad_out, grad_value, grad_locations,
// grad_weights. `choice`: variant, channels per load and threads of a group (0: chosen here). Returned: a cudaError_t.
GREEDYPRUNE_EXPORT int greedyprune_cuda_forward(int device, void *stream, int dtype, const int64_t *sizes,
                                                const int64_t *shapes, void *const *tensors, const int *choice) {
  return greedyprune::run<greedyprune::Forward>(device, stream, dtype, sizes, shapes, tensors, choice);
}

GREEDYPRUNE_EXPORT int greedyprune_cuda_backward(int device, void *stream, int dtype, const int64_t *sizes,
                                                 const int64_t *shapes, void *const *tensors, const int *choice) {
  return greedyprune::run<greedyprune::Backward>(device, stream, dtype, sizes, shapes, tensors, choice);
}

// Whether the kernels can run on `device`: a cudaError_t. An old driver and a card that nothing was compiled for show
// here, before the first kernel.
GREEDYPRUNE_EXPORT int greedyprune_cuda_check(int device) {
  const greedyprune::OnDevice guard(device);
  if (guard.error != cudaSuccess) return guard.error;
  return greedyprune::loadable();
}

GREEDYPRUNE_EXPORT const char *greedyprune_cuda_error(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

GREEDYPRUNE_EXPORT int greedyprune_max_levels() { return greedyprune::kMaxLevels; }

// Raised whenever a function here changes what it takes; the Python side refuses a library with another number.
GREEDYPRUNE_EXPORT int greedyprune_interface() { return 1; }
