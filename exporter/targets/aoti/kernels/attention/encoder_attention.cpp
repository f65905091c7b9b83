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

constexpr int64_t kPanel = 32;         // positions, or dimensions of values, of a panel
constexpr int64_t kRows = 12;          // queries that go against it at once
constexpr int64_t kBlock = 8 * kRows;  // queries that a thread takes at once
constexpr int64_t kKeys = 12 * kPanel;  // whose scores stay in the nearest cache
constexpr float kLog2e = 1.44269504F;
constexpr float kNothing = -1e30F;  // the score of a position that does not exist
constexpr float kPower[] = {5.51716688e-02F, 2.42611133e-01F, 6.93260986e-01F, 9.99928073e-01F};

// Two rows of numbers as pairs; nothing where a row is null.
__m512i paired(const float* even, const float* odd) {
  const auto wide = [](const float* row) {
    return row ? _mm512_cvtepu16_epi32(Bf16::rounded(_mm512_loadu_ps(row))) : _mm512_setzero_si512();
  };
  return _mm512_or_si512(wide(even), _mm512_slli_epi32(wide(odd), 16));
}

// out[kRows][16 * parts] = left[kRows][groups] panel[groups][16 * parts], plus rows of `out` times
// their factors.
template <int parts>
void product(const uint32_t* left, int64_t stride, const uint32_t* panel, int64_t groups,
             const float* factors, float* out, int64_t out_stride) {
  __m512 sums[kRows][parts];
  multiply<Bf16, kRows, parts>(left, stride, panel, groups, sums);
  for (int row = 0; row < kRows; row++)
    for (int part = 0; part < parts; part++) {
      float* place = out + row * out_stride + part * kLanes;
      if (factors)
        sums[row][part] = _mm512_fmadd_ps(_mm512_loadu_ps(place), _mm512_set1_ps(factors[row]),
                                          sums[row][part]);
      _mm512_storeu_ps(place, sums[row][part]);
    }
}

// The largest of numbers that fill whole panels.
float largest(const float* numbers, int64_t length) {
  static_assert(kPanel == 2 * kLanes);
  __m512 peaks[2] = {_mm512_set1_ps(-INFINITY), _mm512_set1_ps(-INFINITY)};
  for (int64_t at = 0; at < length; at += kPanel)
    for (int part = 0; part < 2; part++)
      peaks[part] = _mm512_max_ps(peaks[part], _mm512_loadu_ps(numbers + at + part * kLanes));
  return _mm512_reduce_max_ps(_mm512_max_ps(peaks[0], peaks[1]));
}

// 2^x for finite x, to the precision of bfloat16.
Vec power(Vec x) {
  const Vec whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec rest = x - whole;
  Vec sum(kPower[0]);
  for (size_t term = 1; term < std::size(kPower); term++)
    sum = at::vec::fmadd(sum, rest, Vec(kPower[term]));
  return _mm512_scalef_ps(sum, whole);
}

// Scores that fill whole panels to weights, as bfloat16 and not yet divided by their sum, which is
// returned; `peak` is not below any score.
float weigh(const float* scores, int64_t length, float peak, uint16_t* weights) {
  const Vec log2e(kLog2e), most(peak * kLog2e);
  Vec sums[2] = {Vec(0), Vec(0)};
  for (int64_t at = 0; at < length; at += 2 * kLanes) {
    for (int part = 0; part < 2; part++) {
      const int64_t place = at + part * kLanes;
      const Vec weight = power(at::vec::fmsub(Vec::loadu(scores + place), log2e, most));
      sums[part] = sums[part] + weight;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + place), Bf16::rounded(weight));
    }
  }
  return _mm512_reduce_add_ps(sums[0] + sums[1]);
}

// The softmax of kRows queries, some of their keys after the others.
struct Softmax {
  float peaks[kLanes], sums[kLanes], factors[kLanes];

  Softmax() {
    std::fill_n(peaks, kLanes, kNothing);
    std::fill_n(sums, kLanes, 0.0F);
  }

  // Turns `count` scores of each query into weights; returns what those before are to be
  // multiplied with.
  const float* weigh(const float* scores, int64_t count, uint32_t* weights) {
    const Vec before = Vec::loadu(peaks);
    for (int64_t i = 0; i < kRows; i++)
      peaks[i] = std::max(peaks[i], largest(scores + i * kKeys, count));
    power((before - Vec::loadu(peaks)) * Vec(kLog2e)).store(factors);
    for (int64_t i = 0; i < kRows; i++)
      sums[i] = sums[i] * factors[i] +
                exporter::weigh(scores + i * kKeys, count, peaks[i],
                                reinterpret_cast<uint16_t*>(weights + i * kKeys / 2));
    return factors;
  }
};

template <int parts>  // registers that one head's numbers fill
class Head {
 public:
  Head(int64_t length, int64_t stride)
      : length_(length),
        padded_((length + kPanel - 1) / kPanel * kPanel),
        stride_(stride),
        keys_(padded_ * kWidth / 2),
        values_(padded_ * kWidth / 2),
        queries_(kRows * kWidth / 2),
        weights_(kRows * kKeys / 2),
        scores_(kRows * kKeys) {}

  void pack(const float* key, const float* value) {
    for (int64_t first = 0; first < padded_; first += kLanes) pack_keys(key, first);
    for (int64_t d = 0; d < kWidth; d += kLanes) {
      uint32_t* column = values_.data() + d / kColumns * kColumns * padded_ / 2 + d % kColumns;
      for (int64_t pair = 0; pair < padded_ / 2; pair++)
        _mm512_storeu_si512(column + pair * kColumns,
                            paired(row(value, 2 * pair, d), row(value, 2 * pair + 1, d)));
    }
  }

  // The results of kRows queries from `first` on.
  void attend(const float* query, int64_t first, float* out) {
    for (int64_t i = 0; i < kRows; i++)
      for (int64_t d = 0; d < kWidth; d += kLanes)
        _mm256_storeu_si256(
            reinterpret_cast<__m256i*>(queries_.data() + (i * kWidth + d) / 2),
            Bf16::rounded(_mm512_loadu_ps(row(query, std::min(first + i, length_ - 1), d))));
    Softmax softmax;
    float heads[kRows * kWidth];
    for (int64_t key = 0; key < padded_; key += kKeys) {
      const int64_t count = std::min(kKeys, padded_ - key);
      for (int64_t panel = 0; panel < count; panel += kPanel)
        product<kPanel / kLanes>(queries_.data(), kWidth / 2,
                                 keys_.data() + (key + panel) * kWidth / 2, kWidth / 2, nullptr,
                                 scores_.data() + panel, kKeys);
      if (key + count == padded_)
        for (int64_t i = 0; i < kRows; i++)
          std::fill_n(scores_.data() + i * kKeys + length_ - key, padded_ - length_, kNothing);
      const float* factors = softmax.weigh(scores_.data(), count, weights_.data());
      for (int64_t d = 0; d < kWidth; d += kColumns)
        product<kColumns / kLanes>(weights_.data(), kKeys / 2,
                                   values_.data() + d * padded_ / 2 + key / 2 * kColumns, count / 2,
                                   key ? factors : nullptr, heads + d, kWidth);
    }
    for (int64_t i = 0; i < std::min(kRows, length_ - first); i++)
      for (int64_t d = 0; d < kWidth; d++)
        out[(first + i) * stride_ + d] = heads[i * kWidth + d] / softmax.sums[i];
  }

 private:
  static constexpr int64_t kWidth = parts * kLanes;
  static constexpr int64_t kColumns = kWidth % kPanel ? kLanes : kPanel;  // of a panel of values

  const float* row(const float* numbers, int64_t position, int64_t d) const {
    return position < length_ ? numbers + position * stride_ + d : nullptr;
  }

  // Positions become columns of their panel, a register of them at a time.
  void pack_keys(const float* key, int64_t first) {
    uint32_t* column = keys_.data() + first / kPanel * kPanel * kWidth / 2 + first % kPanel;
    for (int64_t d = 0; d < kWidth; d += 2 * kLanes) {
      __m512i block[kLanes];
      for (int64_t lane = 0; lane < kLanes; lane++) {
        const auto half = [&](int64_t at) {
          const float* numbers = at < kWidth ? row(key, first + lane, at) : nullptr;
          return numbers ? Bf16::rounded(_mm512_loadu_ps(numbers)) : _mm256_setzero_si256();
        };
        block[lane] = _mm512_inserti64x4(_mm512_castsi256_si512(half(d)), half(d + kLanes), 1);
      }
      transpose(block);
      for (int64_t pair = 0; pair < std::min(kLanes, (kWidth - d) / 2); pair++)
        _mm512_storeu_si512(column + (d / 2 + pair) * kPanel, block[pair]);
    }
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
    const int64_t blocks = (length + kBlock - 1) / kBlock;
    Work work(batch * heads * blocks);
    EXPORTER_PARALLEL {
      Head<parts> own(length, all);
      int64_t packed = -1;
      work.each([&](int64_t item) {
        const int64_t head = item / blocks, end = std::min((item % blocks + 1) * kBlock, length);
        const int64_t at = head / heads * length * all + head % heads * (all / heads);
        if (packed != head) own.pack(key + at, value + at);
        packed = head;
        for (int64_t first = item % blocks * kBlock; first < end; first += kRows)
          own.attend(query + at, first, out + at);
      });
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
    case 48: attention.run<3>(); break;
    case 64: attention.run<4>(); break;
    case 80: attention.run<5>(); break;
    case 96: attention.run<6>(); break;
    case 128: attention.run<8>(); break;
    default: return AOTI_TORCH_FAILURE;
  }
  return AOTI_TORCH_SUCCESS;
}
