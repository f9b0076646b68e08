// AVX-512: vectors of 16 floats. Compiled for it by pragma, called only where the processor has it.
#include "problem.h"

#ifdef GREEDYPRUNE_X86
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

namespace greedyprune {
namespace avx512 {

struct Vector {
  using T = float;
  static constexpr int kLanes = 16;
  static constexpr int kBlock = 4;  // four vectors times four corners: 16 of the 32 registers
  __m512 v;

  static __mmask16 mask(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static Vector zero() { return {_mm512_setzero_ps()}; }
  static Vector splat(float x) { return {_mm512_set1_ps(x)}; }
  static Vector load(const float *from) { return {_mm512_loadu_ps(from)}; }
  static Vector load(const float *from, int count) { return {_mm512_maskz_loadu_ps(mask(count), from)}; }
  void store(float *to) const { _mm512_storeu_ps(to, v); }
  void store(float *to, int count) const { _mm512_mask_storeu_ps(to, mask(count), v); }
  Vector operator+(Vector other) const { return {_mm512_add_ps(v, other.v)}; }
  Vector plus(Vector a, Vector b) const { return {_mm512_fmadd_ps(a.v, b.v, v)}; }

  // Sums of four vectors in each quarter: a b c d of lanes 0 to 3, then of lanes 4 to 7, ...
  static __m512 quarters(const float *at) {
    const __m512 a = _mm512_loadu_ps(at), b = _mm512_loadu_ps(at + kLanes);
    const __m512 c = _mm512_loadu_ps(at + 2 * kLanes), d = _mm512_loadu_ps(at + 3 * kLanes);
    const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  }

  static void sums(const float *vectors, int64_t count, float *out) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
      const float *at = vectors + i * kLanes;
      const __m512 q0 = quarters(at), q1 = quarters(at + 4 * kLanes);
      const __m512 q2 = quarters(at + 8 * kLanes), q3 = quarters(at + 12 * kLanes);
      const __m512 q01 = _mm512_add_ps(_mm512_shuffle_f32x4(q0, q1, 0x44), _mm512_shuffle_f32x4(q0, q1, 0xEE));
      const __m512 q23 = _mm512_add_ps(_mm512_shuffle_f32x4(q2, q3, 0x44), _mm512_shuffle_f32x4(q2, q3, 0xEE));
      const __m512 even = _mm512_shuffle_f32x4(q01, q23, 0x88), odd = _mm512_shuffle_f32x4(q01, q23, 0xDD);
      _mm512_storeu_ps(out + i, _mm512_add_ps(even, odd));
    }
    for (; i < count; ++i) out[i] = _mm512_reduce_add_ps(_mm512_loadu_ps(vectors + i * kLanes));
  }
};

#include "kernels.inl"

}  // namespace avx512

const Kernels<float> kAvx512Float = avx512::kernels<avx512::Vector>();

}  // namespace greedyprune

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
