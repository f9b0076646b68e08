// Vectors of 16 bytes, which every machine of today has: SSE2 or NEON, as the compiler sees fit.
#include "problem.h"

namespace greedyprune {
namespace generic {

template <class Number, class Register>
struct Vector {
  using T = Number;
  static constexpr int kLanes = sizeof(Register) / sizeof(T);
  static constexpr int kBlock = 2;  // vectors of a row that are summed at once; times four corners, they fit registers
  Register v;

  static Vector zero() { return {Register{}}; }
  static Vector splat(T x) { return {x - Register{}}; }
  static Vector load(const T *from) {
    Vector out;
    __builtin_memcpy(&out.v, from, sizeof(Register));
    return out;
  }
  static Vector load(const T *from, int count) {
    Vector out = zero();
    for (int i = 0; i < count; ++i) out.v[i] = from[i];
    return out;
  }
  void store(T *to) const { __builtin_memcpy(to, &v, sizeof(Register)); }
  void store(T *to, int count) const {
    for (int i = 0; i < count; ++i) to[i] = v[i];
  }
  Vector operator+(Vector other) const { return {v + other.v}; }
  // this + a * b
  Vector plus(Vector a, Vector b) const { return {v + a.v * b.v}; }

  // The sum of each of `count` vectors that lie one after another.
  static void sums(const T *vectors, int64_t count, T *out) {
    for (int64_t i = 0; i < count; ++i) {
      T sum = 0;
      for (int lane = 0; lane < kLanes; ++lane) sum += vectors[i * kLanes + lane];
      out[i] = sum;
    }
  }
};

#include "kernels.inl"

typedef float Floats __attribute__((vector_size(16)));
typedef double Doubles __attribute__((vector_size(16)));

}  // namespace generic

const Kernels<float> kGenericFloat = generic::kernels<generic::Vector<float, generic::Floats>>();
const Kernels<double> kGenericDouble = generic::kernels<generic::Vector<double, generic::Doubles>>();

}  // namespace greedyprune
