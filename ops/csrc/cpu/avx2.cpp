// AVX2 with fused multiply-add: vectors of 8 floats. Compiled for it by pragma, called only where the processor has it.
#include "problem.h"

#ifdef GREEDYPRUNE_X86
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace greedyprune {
namespace avx2 {

struct Vector {
  using T = float;
  static constexpr int kLanes = 8;
  static constexpr int kBlock = 2;  // two vectors times four corners, and the row's own: 16 registers
  __m256 v;

  static __m256i mask(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vector zero() { return {_mm256_setzero_ps()}; }
  static Vector splat(float x) { return {_mm256_set1_ps(x)}; }
  static Vector load(const float *from) { return {_mm256_loadu_ps(from)}; }
  static Vector load(const float *from, int count) { return {_mm256_maskload_ps(from, mask(count))}; }
  void store(float *to) const { _mm256_storeu_ps(to, v); }
  void store(float *to, int count) const { _mm256_maskstore_ps(to, mask(count), v); }
  Vector operator+(Vector other) const { return {_mm256_add_ps(v, other.v)}; }
  Vector plus(Vector a, Vector b) const { return {_mm256_fmadd_ps(a.v, b.v, v)}; }

  static void sums(const float *vectors, int64_t count, float *out) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
      const float *at = vectors + i * kLanes;
      const __m256 ab = _mm256_hadd_ps(_mm256_loadu_ps(at), _mm256_loadu_ps(at + kLanes));
      const __m256 cd = _mm256_hadd_ps(_mm256_loadu_ps(at + 2 * kLanes), _mm256_loadu_ps(at + 3 * kLanes));
      const __m256 all = _mm256_hadd_ps(ab, cd);  // a b c d, of the lower and of the upper half
      _mm_storeu_ps(out + i, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
    }
    for (; i < count; ++i) {
      float sum = 0;
      for (int lane = 0; lane < kLanes; ++lane) sum += vectors[i * kLanes + lane];
      out[i] = sum;
    }
  }
};

#include "kernels.inl"

}  // namespace avx2

const Kernels<float> kAvx2Float = avx2::kernels<avx2::Vector>();

}  // namespace greedyprune

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
