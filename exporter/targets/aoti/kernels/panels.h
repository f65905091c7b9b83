// The inner loop of large products: a few rows times a panel of columns, sums in registers.
//
// Numbers come in groups of 32 bits, as one instruction multiplies and sums them: two of bfloat16
// or four of int8. A panel is stored [groups][columns], so that it is read as it lies.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace exporter {

constexpr int64_t kLanes = 16;     // groups in a register
constexpr int64_t kPanel = 64;     // columns of a panel: four registers
constexpr int64_t kPanelRows = 6;  // with four registers each, they fill the register file

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

// sums[kPanelRows][parts] = left[kPanelRows][groups] panel[groups][16 * parts].
template <class Kind, int parts>
void multiply(const uint32_t* left, int64_t stride, const uint32_t* panel, int64_t groups,
              typename Kind::Sum (&sums)[kPanelRows][parts]) {
  typename Kind::Sum own[kPanelRows][parts];
#pragma GCC unroll 8
  for (int row = 0; row < kPanelRows; row++)
#pragma GCC unroll 8
    for (int part = 0; part < parts; part++) own[row][part] = Kind::zero();
  for (int64_t group = 0; group < groups; group++) {
    __m512i right[parts];
#pragma GCC unroll 8
    for (int part = 0; part < parts; part++)
      right[part] = _mm512_loadu_si512(panel + (group * parts + part) * kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kPanelRows; row++) {
      const __m512i numbers = _mm512_set1_epi32(static_cast<int>(left[row * stride + group]));
#pragma GCC unroll 8
      for (int part = 0; part < parts; part++) Kind::add(own[row][part], numbers, right[part]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kPanelRows; row++)
#pragma GCC unroll 8
    for (int part = 0; part < parts; part++) sums[row][part] = own[row][part];
}

}  // namespace exporter
