// The inner loop of large products: a few rows times a panel of columns, sums in registers.
//
// Numbers come in groups of 32 bits, as one instruction multiplies and sums them: two of bfloat16
// or four of int8. A panel is stored [groups][columns], so that it is read as it lies.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace exporter {

constexpr int64_t kLanes = 16;  // groups in a register

// The instructions are written out: around its own intrinsics GCC 12 copies sums to and fro, and
// spills them.
#ifdef __AVX512VNNI__
struct Int8 {  // unsigned on the left, signed on the right
  using Sum = __m512i;
  static Sum zero() { return _mm512_setzero_si512(); }
  static void add(Sum& sum, __m512i left, __m512i right) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(left), "v"(right));
  }
};
#endif

struct Bf16 {
  using Sum = __m512;
  static Sum zero() { return _mm512_setzero_ps(); }
#ifdef __AVX512BF16__
  static void add(Sum& sum, __m512i left, __m512i right) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(left), "v"(right));
  }
  static __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
#else
  static void add(Sum& sum, __m512i left, __m512i right) {
    const auto even = [](__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); };
    const auto odd = [](__m512i x) {
      return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-0x10000)));
    };
    sum = _mm512_fmadd_ps(odd(left), odd(right), _mm512_fmadd_ps(even(left), even(right), sum));
  }
  static __m256i rounded(__m512 x) {  // to nearest, ties to even
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i tie = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i half = _mm512_add_epi32(tie, _mm512_set1_epi32(0x7fff));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(bits, half), 16));
  }
#endif
};

// Lane j of register i becomes lane i of register j.
inline void transpose(__m512i (&block)[kLanes]) {
  __m512i part[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 2) {
    part[i] = _mm512_unpacklo_epi32(block[i], block[i + 1]);
    part[i + 1] = _mm512_unpackhi_epi32(block[i], block[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; i += 4)
#pragma GCC unroll 16
    for (int j = 0; j < 2; j++) {
      block[i + 2 * j] = _mm512_unpacklo_epi64(part[i + j], part[i + 2 + j]);
      block[i + 2 * j + 1] = _mm512_unpackhi_epi64(part[i + j], part[i + 2 + j]);
    }
#pragma GCC unroll 16
  for (int i = 0; i < 4; i++) {  // what is left to transpose are quarters of registers
    const __m512i even[] = {_mm512_shuffle_i32x4(block[i], block[4 + i], 0x88),
                            _mm512_shuffle_i32x4(block[8 + i], block[12 + i], 0x88)};
    const __m512i odd[] = {_mm512_shuffle_i32x4(block[i], block[4 + i], 0xdd),
                           _mm512_shuffle_i32x4(block[8 + i], block[12 + i], 0xdd)};
    block[i] = _mm512_shuffle_i32x4(even[0], even[1], 0x88);
    block[4 + i] = _mm512_shuffle_i32x4(odd[0], odd[1], 0x88);
    block[8 + i] = _mm512_shuffle_i32x4(even[0], even[1], 0xdd);
    block[12 + i] = _mm512_shuffle_i32x4(odd[0], odd[1], 0xdd);
  }
}

// One sum of 16 numbers for each of four registers.
inline __m128 totals(const __m512 (&of)[4]) {
  const auto pairs = [](__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  };
  const __m512d ab = _mm512_castps_pd(pairs(of[0], of[1]));
  const __m512d cd = _mm512_castps_pd(pairs(of[2], of[3]));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                   _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  const __m512 half = _mm512_add_ps(all, _mm512_shuffle_f32x4(all, all, 0x4e));
  return _mm_add_ps(_mm512_castps512_ps128(half), _mm512_extractf32x4_ps(half, 1));
}

// sums[rows][parts] = left[rows][groups] panel[groups][16 * parts]. With 24 sums, and what they are
// made of, all registers are full.
template <class Kind, int rows, int parts>
void multiply(const uint32_t* left, int64_t stride, const uint32_t* panel, int64_t groups,
              typename Kind::Sum (&sums)[rows][parts]) {
  typename Kind::Sum own[rows][parts];
#pragma GCC unroll 16
  for (int row = 0; row < rows; row++)
#pragma GCC unroll 16
    for (int part = 0; part < parts; part++) own[row][part] = Kind::zero();
  for (int64_t group = 0; group < groups; group++) {
    __m512i right[parts];
#pragma GCC unroll 16
    for (int part = 0; part < parts; part++)
      right[part] = _mm512_loadu_si512(panel + (group * parts + part) * kLanes);
#pragma GCC unroll 16
    for (int row = 0; row < rows; row++) {
      const __m512i numbers = _mm512_set1_epi32(static_cast<int>(left[row * stride + group]));
#pragma GCC unroll 16
      for (int part = 0; part < parts; part++) Kind::add(own[row][part], numbers, right[part]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; row++)
#pragma GCC unroll 16
    for (int part = 0; part < parts; part++) sums[row][part] = own[row][part];
}

}  // namespace exporter
