// Attention of an encoder: every position to every other, products of bfloat16 summed in float32.
//
// A head's keys and values are packed once, as pairs that one instruction multiplies; then a few
// queries at a time go through scores, softmax and sum within the nearest caches.
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <vector>

#include "panels.h"
#include "tensors.h"

namespace exporter {
namespace {

using Vec = at::vec::Vectorized<float>;

// Two rows of numbers as pairs; nothing where a row is null.
__m512i paired(const float* even, const float* odd) {
  const auto wide = [](const float* row) {
    return row ? _mm512_cvtepu16_epi32(Bf16::rounded(_mm512_loadu_ps(row))) : _mm512_setzero_si512();
  };
  return _mm512_or_si512(wide(even), _mm512_slli_epi32(wide(odd), 16));
}

// out[kPanelRows][16 * parts] = left[kPanelRows][groups] panel[groups][16 * parts].
template <int parts>
void product(const uint32_t* left, int64_t stride, const uint32_t* panel, int64_t groups,
             float* out, int64_t out_stride) {
  __m512 sums[kPanelRows][parts];
  multiply<Bf16, parts>(left, stride, panel, groups, sums);
  for (int row = 0; row < kPanelRows; row++)
    for (int part = 0; part < parts; part++)
      _mm512_storeu_ps(out + row * out_stride + part * kLanes, sums[row][part]);
}

// The largest of numbers that fill whole panels.
float largest(const float* numbers, int64_t length) {
  Vec peaks[kPanel / kLanes];  // several, so that no comparison waits for the one before
  for (auto& peak : peaks) peak = Vec(-INFINITY);
  for (int64_t at = 0; at < length; at += kPanel)
    for (int part = 0; part < kPanel / kLanes; part++)
      peaks[part] = _mm512_max_ps(peaks[part], Vec::loadu(numbers + at + part * kLanes));
  const auto both = [](const Vec& x, const Vec& y) { return Vec(_mm512_max_ps(x, y)); };
  return _mm512_reduce_max_ps(both(both(peaks[0], peaks[1]), both(peaks[2], peaks[3])));
}

// 2^x for x <= 0, to the precision of bfloat16.
Vec power(Vec x) {
  x = at::vec::maximum(x, Vec(-126.0F));
  const Vec whole = x.round(), rest = x - whole;
  Vec sum(9.6181291e-3F);
  for (const float term : {5.5504109e-2F, 2.4022651e-1F, 6.9314718e-1F, 1.0F})
    sum = at::vec::fmadd(sum, rest, Vec(term));
  return _mm512_scalef_ps(sum, whole);
}

// Scores to weights, as bfloat16 and not yet divided by their sum, which is returned.
float weigh(float* scores, int64_t length, int64_t padded, uint16_t* weights) {
  std::fill(scores + length, scores + padded, -INFINITY);
  const Vec log2e(1.44269504F), peak = Vec(largest(scores, padded)) * log2e;
  Vec sums[2] = {Vec(0), Vec(0)};
  for (int64_t at = 0; at < padded; at += 2 * kLanes) {
    for (int part = 0; part < 2; part++) {
      const int64_t place = at + part * kLanes;
      const Vec weight = power(at::vec::fmsub(Vec::loadu(scores + place), log2e, peak));
      sums[part] = sums[part] + weight;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + place), Bf16::rounded(weight));
    }
  }
  return _mm512_reduce_add_ps(sums[0] + sums[1]);
}

template <int parts>  // registers that one head's numbers fill
class Head {
 public:
  Head(int64_t length, int64_t stride)
      : length_(length),
        padded_((length + kPanel - 1) / kPanel * kPanel),
        stride_(stride),
        keys_(padded_ * kWidth / 2),
        values_(padded_ * kWidth / 2),
        queries_(kPanelRows * kWidth / 2),
        weights_(kPanelRows * padded_ / 2),
        scores_(kPanelRows * padded_) {}

  void run(const float* query, const float* key, const float* value, float* out) {
    for (int64_t position = 0; position < padded_; position++) pack_key(key, position);
    for (int64_t pair = 0; pair < padded_ / 2; pair++)
      for (int64_t d = 0; d < kWidth; d += kLanes)
        _mm512_storeu_si512(
            values_.data() + pair * kWidth + d,
            paired(row(value, 2 * pair, d), row(value, 2 * pair + 1, d)));
    for (int64_t first = 0; first < length_; first += kPanelRows) attend(query, first, out);
  }

 private:
  static constexpr int64_t kWidth = parts * kLanes;

  const float* row(const float* numbers, int64_t position, int64_t d) const {
    return position < length_ ? numbers + position * stride_ + d : nullptr;
  }

  // A position's pairs become a column of its panel.
  void pack_key(const float* key, int64_t position) {
    alignas(64) uint32_t pairs[kWidth / 2] = {};
    if (position < length_) narrow(key + position * stride_, pairs);
    uint32_t* column = keys_.data() + position / kPanel * kPanel * kWidth / 2 + position % kPanel;
    for (int64_t pair = 0; pair < kWidth / 2; pair++) column[pair * kPanel] = pairs[pair];
  }

  static void narrow(const float* numbers, uint32_t* pairs) {
    for (int64_t d = 0; d < kWidth; d += kLanes)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + d / 2),
                          Bf16::rounded(_mm512_loadu_ps(numbers + d)));
  }

  void attend(const float* query, int64_t first, float* out) {
    for (int64_t i = 0; i < kPanelRows; i++)
      narrow(query + std::min(first + i, length_ - 1) * stride_, queries_.data() + i * kWidth / 2);
    for (int64_t panel = 0; panel < padded_; panel += kPanel)
      product<kPanel / kLanes>(queries_.data(), kWidth / 2, keys_.data() + panel * kWidth / 2,
                               kWidth / 2, scores_.data() + panel, padded_);
    float sums[kPanelRows], heads[kPanelRows * kWidth];
    for (int64_t i = 0; i < kPanelRows; i++)
      sums[i] = weigh(scores_.data() + i * padded_, length_, padded_,
                      reinterpret_cast<uint16_t*>(weights_.data() + i * padded_ / 2));
    product<parts>(weights_.data(), padded_ / 2, values_.data(), padded_ / 2, heads, kWidth);
    for (int64_t i = 0; i < std::min(kPanelRows, length_ - first); i++)
      for (int64_t d = 0; d < kWidth; d++)
        out[(first + i) * stride_ + d] = heads[i * kWidth + d] / sums[i];
  }

  int64_t length_, padded_, stride_;
  std::vector<uint32_t> keys_, values_, queries_, weights_;
  std::vector<float> scores_;
};

struct Attention {
  const float *query, *key, *value;
  float* out;
  int64_t batch, length, heads, all;

  template <int parts>
  void run() const {
    EXPORTER_PARALLEL {
      Head<parts> head(length, all);
      const Share mine(batch * heads);
      for (int64_t item = mine.begin; item < mine.end; item++) {
        const int64_t at = item / heads * length * all + item % heads * (all / heads);
        head.run(query + at, key + at, value + at, out + at);
      }
    }
  }
};

}  // namespace
}  // namespace exporter

// query (scaled already), key, value float32 [batch, length, heads * width].
extern "C" AOTITorchError aoti_torch_cpu_attention(AtenTensorHandle query,
                                                        AtenTensorHandle key,
                                                        AtenTensorHandle value, int64_t heads,
                                                        AtenTensorHandle* out) {
  using namespace exporter;
  const int64_t all = size(query, 2);
  if (const auto error = make(query, all, out)) return error;
  const Attention attention{data<float>(query), data<float>(key), data<float>(value),
                            data<float>(*out),  size(query, 0),   size(query, 1),
                            heads,              all};
  switch (all / heads) {
    case 16: attention.run<1>(); break;
    case 32: attention.run<2>(); break;
    case 64: attention.run<4>(); break;
    case 128: attention.run<8>(); break;
    default: return AOTI_TORCH_FAILURE;
  }
  return AOTI_TORCH_SUCCESS;
}
