// For few rows, as in a decoder's step, memory is the bound: each weight is read once, in the order
// it is stored, for all rows together.
#include <immintrin.h>

#include "gelu.h"
#include "linear.h"
#ifdef __AVX512VNNI__
#include "panels.h"
#endif

namespace exporter {
namespace {

constexpr int kColumns = 4;  // rows of W at once
constexpr int kRows = 5;     // rows of x at once, at most: with their sums all registers are full
constexpr int64_t kBytes = 24576;  // of rows of W that stay in the nearest cache
constexpr int64_t kBlocks = 16;    // at least, so that no thread waits long for another
constexpr int64_t kAhead = 8192;   // bytes to prefetch: what hides the memory's latency

void prefetch(const int8_t* place) { __builtin_prefetch(place + kAhead); }

// What the first products do not fetch themselves; there may be less.
void prefetch_first(const int8_t* place) {
  for (int64_t at = 0; at < kAhead; at += Codes::kUnit) prefetch(place + at - kAhead);
}

#ifdef __AVX512VNNI__
// One sum of 16 numbers for each of four registers.
__m128i totals(const __m512i (&of)[kColumns]) {
  const auto pairs = [](__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  };
  const __m512i ab = pairs(of[0], of[1]), cd = pairs(of[2], of[3]);
  const __m512i all =
      _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half =
      _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

__m512i codes_of(const int8_t* weight, int64_t left) {
  const __mmask64 inside = left < Codes::kUnit ? (1ULL << left) - 1 : ~0ULL;
  return _mm512_maskz_loadu_epi8(inside, weight);
}

// sums[row][column] of the products of `rows` rows of codes, offset taken off, and rows of W. In
// memory those lie one after the other, and so they come fastest: one row of codes takes them like
// that, several take them together, from where they were fetched to in that order.
template <int rows>
void products(const uint8_t* codes, int64_t pitch, const int8_t* weight, int64_t length,
              int32_t zero, int32_t sums[][kColumns]) {
  __m512i own[rows][kColumns], offsets[kColumns];
#pragma GCC unroll 8
  for (int column = 0; column < kColumns; column++) {
    offsets[column] = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int row = 0; row < rows; row++) own[row][column] = _mm512_setzero_si512();
  }
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(zero));
  constexpr int together = rows == 1 ? 1 : kColumns;
#pragma GCC unroll 8
  for (int first = 0; first < kColumns; first += together)
    for (int64_t k = 0; k < length; k += Codes::kUnit) {
      __m512i w[together];
#pragma GCC unroll 8
      for (int column = 0; column < together; column++) {
        prefetch(weight + first * length + k * together + column * Codes::kUnit);
        w[column] = codes_of(weight + (first + column) * length + k, length - k);
        Int8::add(offsets[first + column], offset, w[column]);
      }
#pragma GCC unroll 8
      for (int row = 0; row < rows; row++) {
        const __m512i x = _mm512_loadu_si512(codes + row * pitch + k);
#pragma GCC unroll 8
        for (int column = 0; column < together; column++)
          Int8::add(own[row][first + column], x, w[column]);
      }
    }
  const __m128i off = totals(offsets);
#pragma GCC unroll 8
  for (int row = 0; row < rows; row++)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(sums[row]), _mm_sub_epi32(totals(own[row]), off));
}
#else
// The same in the compiler's hands: widened to 16 bits, where no sum can saturate.
template <int rows>
void products(const uint8_t* codes, int64_t pitch, const int8_t* weight, int64_t length,
              int32_t zero, int32_t sums[][kColumns]) {
  for (int column = 0; column < kColumns; column++) {
    for (int row = 0; row < rows; row++) {
      const uint8_t* x = codes + row * pitch;
      const int8_t* w = weight + column * length;
      int32_t total = 0;
      for (int64_t k = 0; k < length; k++)
        total += static_cast<int16_t>(x[k] - zero) * static_cast<int16_t>(w[k]);
      sums[row][column] = total;
    }
  }
}
#endif

using Products = void (*)(const uint8_t*, int64_t, const int8_t*, int64_t, int32_t,
                          int32_t[][kColumns]);
constexpr Products kProducts[kRows + 1] = {nullptr,     products<1>, products<2>,
                                           products<3>, products<4>, products<5>};

// Fills y[row .. row + count][column .. column + kColumns].
void tile(const Linear& l, const Codes& codes, int64_t row, int64_t count, int64_t column) {
  int32_t sums[kRows][kColumns];
  kProducts[count](codes.row(row), codes.pitch, l.weight + column * l.length, l.length, l.offset,
                   sums);
  for (int64_t r = row; r < row + count; r++) {
    for (int64_t c = column; c < column + kColumns; c++) {
      const float product = static_cast<float>(sums[r - row][c - column]);
      const float sum = product * (codes.scales[r] * l.scale[c]) + (l.bias ? l.bias[c] : 0);
      l.y[r * l.columns + c] = l.gelu ? gelu(sum) : sum;
    }
  }
}

// Fills all of y where it has fewer columns than a tile.
void few_columns(const Linear& l) {
  Codes codes(l, l.rows);
  EXPORTER_PARALLEL {
    const Share rows(l.rows);
    codes.quantize(l, rows.begin, rows.end);
#pragma omp barrier  // the last of these rows may overlap with others
    for (int64_t at = rows.begin * l.columns; at < rows.end * l.columns; at++) {
      const int64_t row = at / l.columns, column = at % l.columns;
      const uint8_t* x = codes.row(row);
      const int8_t* w = l.weight + column * l.length;
      int32_t total = 0;
      for (int64_t k = 0; k < l.length; k++)
        total += static_cast<int16_t>(x[k] - l.offset) * static_cast<int16_t>(w[k]);
      const float product = static_cast<float>(total) * (codes.scales[row] * l.scale[column]);
      const float sum = product + (l.bias ? l.bias[column] : 0);
      l.y[at] = l.gelu ? gelu(sum) : sum;
    }
  }
}

}  // namespace

void few_rows(const Linear& l) {
  if (l.columns < kColumns) return few_columns(l);
  const int64_t tiles = (l.rows + kRows - 1) / kRows, count = (l.rows + tiles - 1) / tiles;
  const bool alone = tiles == 1;  // then every thread has its own codes, and nobody waits
  Codes shared(l, alone ? 0 : l.rows);
  const int64_t most = std::min(kBytes / l.length, l.columns / kBlocks);
  const int64_t taken = std::max<int64_t>(most / kColumns, 1) * kColumns;
  const int64_t blocks = (l.columns + taken - 1) / taken;
  Work columns(blocks);
  EXPORTER_PARALLEL {
    Codes own(l, alone ? l.rows : 0);
    Codes& codes = alone ? own : shared;
    const Share rows = alone ? Share(l.rows, 0, 1) : Share(l.rows);
    prefetch_first(l.weight + Share(blocks).begin * taken * l.length);
    codes.quantize(l, rows.begin, rows.end);
    if (!alone) {
#pragma omp barrier
    }
    columns.each([&](int64_t block) {
      const int64_t end = std::min((block + 1) * taken, l.columns);
      for (int64_t row = 0; row < l.rows; row += count)
        for (int64_t c = block * taken; c < end; c += kColumns)
          tile(l, codes, row, std::min(count, l.rows - row),
               std::min(c, l.columns - kColumns));  // the last one may overlap
    });
  }
}

}  // namespace exporter
