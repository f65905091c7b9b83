// y = x W^T + b with weights as unsigned codes of 4 or 8 bits, one scale per group of a row of W,
// and GELU of that where asked for. Written for few rows, as in a decoder's step, where memory is
// the bound: each code is read once, in the order it is stored, and unpacked in registers. More
// rows go against the same columns in tiles.
//
// Inputs are rounded to int8 with one scale per group, as onnxruntime's MatMulNBits does.
#include <immintrin.h>

#include <algorithm>
#include <cmath>

#include "gelu.h"
#include "tensors.h"
#ifdef __AVX512VNNI__
#include "panels.h"
#endif

namespace exporter {
namespace {

constexpr int kColumns = 4;     // rows of W at once
constexpr int kRows = 4;        // rows of x at once, at most
constexpr int64_t kBlock = 16;  // rows of W that stay in the nearest cache
constexpr int64_t kLargest = 128;  // inputs of a group, at most

struct Grouped {
  const float* x;         // [rows, length]
  const uint8_t* weight;  // [columns, stride]; of two 4-bit codes, the first is the low one
  const float* scale;     // [columns, groups]
  const uint8_t* zeros;   // [columns, zero_stride], packed like the codes, or null
  const float* bias;      // [columns] or null
  float* y;               // [rows, columns]
  int64_t rows, columns, length, bits, group, groups, stride, zero_stride;
  bool gelu;

  int32_t usual_zero() const { return 1 << (bits - 1); }
  int32_t zero(int64_t column, int64_t index) const {
    if (!zeros) return usual_zero();
    const uint8_t* own = zeros + column * zero_stride;
    return bits == 8 ? own[index] : own[index / 2] >> (index % 2 * 4) & 15;
  }
};

// Rounds a group to codes; returns its scale.
float quantized(const float* x, int64_t count, int8_t* codes) {
  float peak = 0;
#pragma omp simd reduction(max : peak)
  for (int64_t k = 0; k < count; k++) peak = std::max(peak, std::fabs(x[k]));
  const float scale = std::max(peak, 1e-30F) / 127, inverse = 1 / scale;
#pragma omp simd
  for (int64_t k = 0; k < count; k++)
    codes[k] = static_cast<int8_t>(static_cast<int>(std::nearbyint(x[k] * inverse)));
  return scale;
}

#ifdef __AVX512VNNI__
constexpr int64_t kUnit = 64;     // bytes of codes in a register
constexpr int64_t kAhead = 4096;  // bytes to prefetch: what hides the memory's latency

// What a row of x has for one register of weights: 64 or 128 codes, which fill lanes of 4 or 8
// codes. Those for 4 bits are sorted: first the ones at even places, which meet the low halves of
// bytes, then the others; so a lane's codes are of one group, whatever the group's size.
struct Piece {
  int8_t codes[2 * kUnit];
  float scales[kLanes];  // of each lane's group
  int32_t sums[kLanes];  // of each lane's codes, times the zero point if it is the same for all
};

class Inputs {
 public:
  Inputs(const Grouped& l, int64_t rows)
      : bits_(l.bits),
        codes_(kUnit * 8 / l.bits),
        pieces_((l.length + codes_ - 1) / codes_),
        all_(rows * pieces_) {}

  int64_t pieces() const { return pieces_; }
  const Piece* row(int64_t index) const { return all_.data() + index * pieces_; }

  void quantize(const Grouped& l, int64_t row, int64_t index) {
    Piece* pieces = all_.data() + index * pieces_;
    const int64_t lane = codes_ / kLanes;
    std::vector<int8_t> codes(pieces_ * codes_);  // zeros behind the end
    std::vector<float> scales(l.groups);
    for (int64_t g = 0; g < l.groups; g++) {
      const int64_t first = g * l.group, count = std::min(l.group, l.length - first);
      scales[g] = quantized(l.x + row * l.length + first, count, codes.data() + first);
    }
    const int32_t zero = l.zeros ? 1 : l.usual_zero();
    for (int64_t p = 0; p < pieces_; p++) {
      const int8_t* own = codes.data() + p * codes_;
      for (int64_t i = 0; i < kLanes; i++) {
        int32_t sum = 0;
        for (int64_t k = i * lane; k < (i + 1) * lane; k++) sum += own[k];
        pieces[p].sums[i] = zero * sum;
        const int64_t group = (p * codes_ + i * lane) / l.group;
        pieces[p].scales[i] = group < l.groups ? scales[group] : 0;
      }
      const int64_t step = bits_ == 4 ? 2 : 1;
      for (int64_t half = 0; half < step; half++)
        for (int64_t k = 0; k < kUnit; k++) pieces[p].codes[half * kUnit + k] = own[half + step * k];
    }
  }

 private:
  int64_t bits_, codes_, pieces_;
  std::vector<Piece> all_;
};

template <int bits, int rows, bool zeros>
void products(const Grouped& l, const Inputs& inputs, int64_t row, const int64_t (&at)[kColumns],
              const int32_t* points, float (&sums)[kRows][kColumns]) {
  constexpr int64_t codes = kUnit * 8 / bits, lane = codes / kLanes;
  constexpr int together = rows == 1 ? 1 : kColumns;
  __m512 own[rows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int c = 0; c < kColumns; c++) own[r][c] = _mm512_setzero_ps();
  const Piece* pieces[rows];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) pieces[r] = inputs.row(row + r);
  const int64_t fresh = std::max<int64_t>(1, codes / l.group);  // groups in a register
  alignas(64) int32_t group_of[kLanes];
  for (int i = 0; i < kLanes; i++)
    group_of[i] = codes > l.group ? static_cast<int32_t>(i * lane / l.group) : 0;
  const __m512i spread = _mm512_load_si512(group_of), low = _mm512_set1_epi8(15);
#pragma GCC unroll 8
  for (int first = 0; first < kColumns; first += together)
    for (int64_t p = 0; p < inputs.pieces(); p++) {
      const int64_t left = l.stride - p * kUnit, group = p * codes / l.group;
      const __mmask64 inside = left < kUnit ? (1ULL << left) - 1 : ~0ULL;
      const int64_t count = std::min(fresh, l.groups - group);
      const auto some = static_cast<__mmask16>((1U << count) - 1);
#pragma GCC unroll 8
      for (int c = first; c < first + together; c++) {
        const uint8_t* place = l.weight + at[c] * l.stride + p * kUnit;
        _mm_prefetch(reinterpret_cast<const char*>(place) + kAhead, _MM_HINT_T0);
        const __m512i w = _mm512_maskz_loadu_epi8(inside, place);
        const __m512 scales = _mm512_permutexvar_ps(
            spread, _mm512_maskz_loadu_ps(some, l.scale + at[c] * l.groups + group));
        __m512i point{};
        if constexpr (zeros)
          point = _mm512_permutexvar_epi32(
              spread, _mm512_maskz_loadu_epi32(some, points + c * l.groups + group));
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
          const Piece& x = pieces[r][p];
          __m512i sum = Int8::zero();
          if constexpr (bits == 4) {
            Int8::add(sum, _mm512_and_si512(w, low), _mm512_loadu_si512(x.codes));
            Int8::add(sum, _mm512_and_si512(_mm512_srli_epi16(w, 4), low),
                      _mm512_loadu_si512(x.codes + kUnit));
          } else {
            Int8::add(sum, w, _mm512_loadu_si512(x.codes));
          }
          __m512i offset = _mm512_loadu_si512(x.sums);
          if constexpr (zeros) offset = _mm512_mullo_epi32(offset, point);
          own[r][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum, offset)),
                                      _mm512_mul_ps(scales, _mm512_loadu_ps(x.scales)), own[r][c]);
        }
      }
    }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) _mm_storeu_ps(sums[r], totals(own[r]));
}
#else
// The same in the compiler's hands: widened to 16 bits, where no sum can saturate.
class Inputs {
 public:
  Inputs(const Grouped& l, int64_t rows)
      : length_(l.length), groups_(l.groups), codes_(rows * l.length), scales_(rows * l.groups),
        sums_(rows * l.groups) {}

  const int8_t* codes(int64_t row) const { return codes_.data() + row * length_; }
  float scale(int64_t row, int64_t group) const { return scales_[row * groups_ + group]; }
  int32_t sum(int64_t row, int64_t group) const { return sums_[row * groups_ + group]; }

  void quantize(const Grouped& l, int64_t row, int64_t index) {
    for (int64_t g = 0; g < l.groups; g++) {
      const int64_t first = g * l.group, count = std::min(l.group, l.length - first);
      int8_t* codes = codes_.data() + index * length_ + first;
      scales_[index * groups_ + g] = quantized(l.x + row * l.length + first, count, codes);
      int32_t sum = 0;
      for (int64_t k = 0; k < count; k++) sum += codes[k];
      sums_[index * groups_ + g] = sum;
    }
  }

 private:
  int64_t length_, groups_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

void unpack(const uint8_t* bytes, int64_t bits, int64_t count, uint8_t* codes) {
  if (bits == 8) {
    std::copy(bytes, bytes + count, codes);
  } else {
    for (int64_t k = 0; k < (count + 1) / 2; k++) {
      codes[2 * k] = bytes[k] & 15;
      codes[2 * k + 1] = bytes[k] >> 4;
    }
  }
}

template <int bits, int rows, bool zeros>
void products(const Grouped& l, const Inputs& inputs, int64_t row, const int64_t (&at)[kColumns],
              const int32_t* points, float (&sums)[kRows][kColumns]) {
  uint8_t codes[kLargest];
  for (int c = 0; c < kColumns; c++) {
    for (int r = 0; r < rows; r++) sums[r][c] = 0;
    for (int64_t g = 0; g < l.groups; g++) {
      const int64_t first = g * l.group, count = std::min(l.group, l.length - first);
      unpack(l.weight + at[c] * l.stride + first * bits / 8, bits, count, codes);
      const int32_t zero = zeros ? points[c * l.groups + g] : l.usual_zero();
      const float scale = l.scale[at[c] * l.groups + g];
      for (int r = 0; r < rows; r++) {
        const int8_t* x = inputs.codes(row + r) + first;
        int32_t total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t k = 0; k < count; k++)
          total += static_cast<int16_t>(x[k]) * static_cast<int16_t>(codes[k]);
        total -= zero * inputs.sum(row + r, g);
        sums[r][c] += static_cast<float>(total) * (scale * inputs.scale(row + r, g));
      }
    }
  }
}
#endif

using Products = void (*)(const Grouped&, const Inputs&, int64_t, const int64_t (&)[kColumns],
                          const int32_t*, float (&)[kRows][kColumns]);

template <int bits, bool zeros>
constexpr Products kProducts[kRows] = {products<bits, 1, zeros>, products<bits, 2, zeros>,
                                       products<bits, 3, zeros>, products<bits, 4, zeros>};

const Products* products_of(const Grouped& l) {
  if (l.bits == 4) return l.zeros ? kProducts<4, true> : kProducts<4, false>;
  return l.zeros ? kProducts<8, true> : kProducts<8, false>;
}

// Fills y[row .. row + count] at some columns; behind the last, they repeat it.
void tile(const Grouped& l, const Inputs& inputs, int64_t row, int64_t count,
          const int64_t (&at)[kColumns], const int32_t* points) {
  float sums[kRows][kColumns];
  products_of(l)[count - 1](l, inputs, row, at, points, sums);
  for (int64_t r = 0; r < count; r++) {
    for (int c = 0; c < kColumns; c++) {
      const float sum = sums[r][c] + (l.bias ? l.bias[at[c]] : 0);
      l.y[(row + r) * l.columns + at[c]] = l.gelu ? gelu(sum) : sum;
    }
  }
}

void multiply_block(const Grouped& l, const Inputs& inputs, int64_t count, int64_t block) {
  std::vector<int32_t> points(l.zeros ? kColumns * l.groups : 0);
  const int64_t end = std::min((block + 1) * kBlock, l.columns);
  for (int64_t first = block * kBlock; first < end; first += kColumns) {
    int64_t at[kColumns];
    for (int c = 0; c < kColumns; c++) at[c] = std::min(first + c, l.columns - 1);
    for (int64_t i = 0; i < static_cast<int64_t>(points.size()); i++)
      points[i] = l.zero(at[i / l.groups], i % l.groups);
    for (int64_t row = 0; row < l.rows; row += count)
      tile(l, inputs, row, std::min(count, l.rows - row), at, points.data());
  }
}

void multiply_all(const Grouped& l) {
  const int64_t tiles = (l.rows + kRows - 1) / kRows;
  const bool alone = tiles <= 1;  // then every thread has its own codes, and nobody waits
  Inputs shared(l, alone ? 0 : l.rows);
  Work columns((l.columns + kBlock - 1) / kBlock);
  EXPORTER_PARALLEL {
    Inputs own(l, alone ? l.rows : 0);
    Inputs& inputs = alone ? own : shared;
    const Share rows = alone ? Share(l.rows, 0, 1) : Share(l.rows);
    for (int64_t row = rows.begin; row < rows.end; row++) inputs.quantize(l, row, row);
    if (!alone) {
#pragma omp barrier
    }
    const int64_t count = tiles ? (l.rows + tiles - 1) / tiles : 1;
    columns.each([&](int64_t block) { multiply_block(l, inputs, count, block); });
  }
}

}  // namespace
}  // namespace exporter

// x float32 [..., in], weight uint8 [out, in * bits / 8], scale float32 [out, groups], zero_point
// uint8 [out, groups * bits / 8] or null, bias float32 [out] or null.
extern "C" AOTITorchError aoti_torch_cpu_grouped_linear(
    AtenTensorHandle x, AtenTensorHandle weight, AtenTensorHandle scale,
    AtenTensorHandle* zero_point, AtenTensorHandle* bias, int64_t bits, int64_t group, int32_t gelu,
    AtenTensorHandle* y) {
  using namespace exporter;
  int64_t axes = 0;
  aoti_torch_get_dim(x, &axes);
  const int64_t columns = size(weight, 0), length = size(x, axes - 1);
  const int64_t groups = (length + group - 1) / group;
  const auto bytes = [&](int64_t codes) { return (codes * bits + 7) / 8; };
  const bool known = (bits == 4 || bits == 8) && (group == 32 || group == 64 || group == kLargest);
  if (!known || size(weight, 1) != bytes(length) || size(scale, 1) != groups)
    return AOTI_TORCH_FAILURE;
  if (const auto error = make(x, columns, y)) return error;
  multiply_all({data<float>(x), data<uint8_t>(weight), data<float>(scale),
                zero_point ? data<uint8_t>(*zero_point) : nullptr,
                bias ? data<float>(*bias) : nullptr, data<float>(*y), count(x) / length, columns,
                length, bits, group, groups, bytes(length), bytes(groups), gelu != 0});
  return AOTI_TORCH_SUCCESS;
}
