// Attention of a decoder's step: a few queries against its own keys and values in float16, and
// against those of the audio in int8.
//
// Bound by memory: every key and value is read once, for all queries of a window together. Queries
// are scaled already. What a beam has in common with others stays where it was written: `ancestors`
// tells, for each earlier position, the row of the cache that holds it.
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <immintrin.h>

#include <algorithm>
#include <vector>

#include "tensors.h"
#ifdef __AVX512F__
#include "panels.h"
#endif

namespace exporter {
namespace {

using Vec = at::vec::Vectorized<float>;
using c10::Half;

constexpr int64_t kTogether = 4;  // positions whose products are added up together; queries too
constexpr int64_t kAhead = 4096;  // bytes to prefetch: what hides the memory's latency
constexpr int64_t kLine = 64 / sizeof(Half);  // numbers of a cache line

// Room for the scores of `length` positions.
int64_t padded(int64_t length) { return (length + kTogether - 1) / kTogether * kTogether; }

// One position's numbers, a register at a time, and what they are to be multiplied with.
struct HalfRow {
  const Half* numbers;

  Vec part(int index) const {
    Vec found;
    at::vec::load_fp32_from_fp16(numbers + index * Vec::size(), found);
    return found;
  }
  float number(int64_t d) const { return numbers[d]; }
  float scale() const { return 1; }
  void prefetch() const {}  // a step's own keys and values are few
};

struct Int8Row {  // the scale's four bytes follow the codes
  const int8_t* codes;
  int64_t width;

  Vec part(int index) const {
    return at::vec::convert<float>(at::vec::convert_to_int32<int8_t>(codes + index * Vec::size()));
  }
  float number(int64_t d) const { return codes[d]; }
  float scale() const {
    float found;
    __builtin_memcpy(&found, codes + width, sizeof found);
    return found;
  }
  void prefetch() const { __builtin_prefetch(codes + kAhead); }
};

void narrow(const float* from, int64_t width, Half* to) {
  constexpr float kMost = 65504;
  int64_t d = 0;
  for (; d + 8 <= width; d += 8) {
    const __m256 numbers = _mm256_max_ps(_mm256_set1_ps(-kMost), _mm256_loadu_ps(from + d));
    const __m256 narrowed = _mm256_min_ps(_mm256_set1_ps(kMost), numbers);  // a NaN stays
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + d),
                     _mm256_cvtps_ph(narrowed, _MM_FROUND_TO_NEAREST_INT));
  }
  for (; d < width; d++) to[d] = std::clamp(from[d], -kMost, kMost);
}

// Turns scores into weights that sum to one.
void softmax(float* scores, int64_t length) {
  const float peak = at::vec::reduce_all<float>(
      [](Vec& x, Vec& y) { return at::vec::maximum(x, y); }, scores, length);
  at::vec::map<float>([peak](Vec x) { return (x - Vec(peak)).fexp_u20(); }, scores, scores, length);
  const float sum =
      at::vec::reduce_all<float>([](Vec& x, Vec& y) { return x + y; }, scores, length);
  at::vec::map<float>([sum](Vec x) { return x * Vec(1 / sum); }, scores, scores, length);
}

// The sum of each of four registers.
void add_up(const Vec (&of)[kTogether], float* sums) {
#ifdef __AVX512F__
  const __m512 all[] = {of[0], of[1], of[2], of[3]};
  _mm_storeu_ps(sums, totals(all));
#else
  for (int64_t i = 0; i < kTogether; i++)
    sums[i] = at::vec::vec_reduce_all<float>([](Vec& x, Vec& y) { return x + y; }, of[i]);
#endif
}

// scores[queries][pitch] of queries against the positions' keys.
template <int parts, class Place>
void score(const float* query, int64_t queries, int64_t stride, Place key, int64_t length,
           float* scores, int64_t pitch) {
  for (int64_t first = 0; first < length; first += kTogether) {
    Vec k[kTogether][parts];
    float scales[kTogether], sums[kTogether];
    for (int64_t p = 0; p < kTogether; p++) {
      const auto row = key(std::min(first + p, length - 1));
      row.prefetch();
      scales[p] = row.scale();
      for (int part = 0; part < parts; part++) k[p][part] = row.part(part);
    }
    for (int64_t i = 0; i < queries; i++) {
      Vec products[kTogether];
      for (int part = 0; part < parts; part++) {
        const Vec q = Vec::loadu(query + i * stride + part * Vec::size());
        for (int64_t p = 0; p < kTogether; p++)
          products[p] = part ? at::vec::fmadd(k[p][part], q, products[p]) : k[p][part] * q;
      }
      add_up(products, sums);
      for (int64_t p = 0; p < kTogether; p++) scores[i * pitch + first + p] = scales[p] * sums[p];
    }
  }
}

// out[count][parts] of `count` queries: the positions' values by their weights.
template <int parts, int count, class Place>
void mix(const float* weights, int64_t pitch, Place value, int64_t length, float* out,
         int64_t stride) {
  constexpr int turns = parts * count <= 8 ? 2 : 1;  // sums of their own, which need not wait
  Vec sums[turns][count][parts];
  for (auto& turn : sums)
    for (auto& row : turn) std::fill_n(row, parts, Vec(0));
  const auto add = [&](int64_t position, Vec(&to)[count][parts]) {
    const auto row = value(position);
    row.prefetch();
    Vec own[count];
    for (int i = 0; i < count; i++) own[i] = Vec(row.scale() * weights[i * pitch + position]);
    for (int part = 0; part < parts; part++) {
      const Vec v = row.part(part);
      for (int i = 0; i < count; i++) to[i][part] = at::vec::fmadd(v, own[i], to[i][part]);
    }
  };
  int64_t position = 0;
  for (; position + turns <= length; position += turns)
    for (int turn = 0; turn < turns; turn++) add(position + turn, sums[turn]);
  for (; position < length; position++) add(position, sums[0]);
  for (int i = 0; i < count; i++)
    for (int part = 0; part < parts; part++) {
      Vec sum = sums[0][i][part];
      for (int turn = 1; turn < turns; turn++) sum = sum + sums[turn][i][part];
      sum.store(out + i * stride + part * Vec::size());
    }
}

// `queries` rows of `parts` registers each, `stride` numbers apart, against the positions' keys and
// values, `key(position)` and `value(position)`; `seen(i)` is how many positions query i sees, and never falls with i.
template <int parts, class Place, class Seen>
void attend(const float* query, int64_t queries, int64_t stride, Place key, Place value, Seen seen,
            float* scores, float* out) {
  const int64_t length = seen(queries - 1), pitch = padded(length);
  score<parts>(query, queries, stride, key, length, scores, pitch);
  for (int64_t i = 0; i < queries; i++) {
    softmax(scores + i * pitch, seen(i));
    std::fill_n(scores + i * pitch + seen(i), length - seen(i), 0.0F);
  }
  for (int64_t first = 0; first < queries; first += kTogether) {
    const float* weights = scores + first * pitch;
    float* to = out + first * stride;
    switch (std::min(kTogether, queries - first)) {
      case 1: mix<parts, 1>(weights, pitch, value, length, to, stride); break;
      case 2: mix<parts, 2>(weights, pitch, value, length, to, stride); break;
      case 3: mix<parts, 3>(weights, pitch, value, length, to, stride); break;
      default: mix<parts, 4>(weights, pitch, value, length, to, stride);
    }
  }
}

// The same for rows of any width, in the compiler's hands.
template <class Place, class Seen>
void attend_any(int64_t width, const float* query, int64_t queries, int64_t stride, Place key,
                Place value, Seen seen, float* scores, float* out) {
  for (int64_t i = 0; i < queries; i++, query += stride, out += stride) {
    for (int64_t position = 0; position < seen(i); position++) {
      const auto row = key(position);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < width; d++) sum += row.number(d) * query[d];
      scores[position] = row.scale() * sum;
    }
    softmax(scores, seen(i));
    std::fill_n(out, width, 0.0F);
    for (int64_t position = 0; position < seen(i); position++) {
      const auto row = value(position);
      const float weight = row.scale() * scores[position];
#pragma omp simd
      for (int64_t d = 0; d < width; d++) out[d] += weight * row.number(d);
    }
  }
}

template <class... Arguments>
void attend_head(int64_t width, Arguments... arguments) {
  switch (width % Vec::size() ? 0 : width / Vec::size()) {
    case 1: return attend<1>(arguments...);
    case 2: return attend<2>(arguments...);
    case 4: return attend<4>(arguments...);
    case 8: return attend<8>(arguments...);
    case 16: return attend<16>(arguments...);
    default: return attend_any(width, arguments...);
  }
}

}  // namespace
}  // namespace exporter

// query, key, value float32 [rows, tokens, heads * width] of the new tokens, which begin at
// position[0]; caches float16 [rows, heads, positions, width], written there; ancestors int32
// [rows, positions].
extern "C" AOTITorchError aoti_torch_cpu_step_attention(
    AtenTensorHandle query, AtenTensorHandle key, AtenTensorHandle value,
    AtenTensorHandle key_cache, AtenTensorHandle value_cache, AtenTensorHandle ancestors,
    AtenTensorHandle position, AtenTensorHandle* out) {
  using namespace exporter;
  const int64_t rows = size(query, 0), tokens = size(query, 1), all = size(query, 2);
  const int64_t heads = size(key_cache, 1), positions = size(key_cache, 2);
  const int64_t width = all / heads, start = *data<int64_t>(position);
  const int32_t* table = data<int32_t>(ancestors);
  bool known = start >= 0 && start + tokens <= positions;
  for (int64_t row = 0; known && row < rows; row++)
    for (int64_t p = 0; p < start; p++)
      known = known && table[row * positions + p] >= 0 && table[row * positions + p] < rows;
  if (!known) return AOTI_TORCH_FAILURE;
  if (const auto error = make(query, all, out)) return error;
  const float *q = data<float>(query), *k = data<float>(key), *v = data<float>(value);
  Half *keys = data<Half>(key_cache), *values = data<Half>(value_cache);
  float* result = data<float>(*out);
  EXPORTER_PARALLEL {
    std::vector<float> scores(tokens * padded(start + tokens));
    const Share mine(rows * heads);
    const auto fetch = [=](int64_t item) {  // what lies apart from the head before
      const int64_t place = item * positions * width;
      for (int64_t at = place; at < place + start * width; at += kLine) {
        __builtin_prefetch(keys + at);
        __builtin_prefetch(values + at);
      }
    };
    if (mine.begin < mine.end) fetch(mine.begin);
    for (int64_t item = mine.begin; item < mine.end; item++) {
      if (item + 1 < mine.end) fetch(item + 1);
      const int64_t row = item / heads, head = item % heads;
      const int64_t input = row * tokens * all + head * width;
      for (int64_t token = 0; token < tokens; token++) {
        const int64_t place = (item * positions + start + token) * width;
        narrow(k + input + token * all, width, keys + place);
        narrow(v + input + token * all, width, values + place);
      }
      const auto found = [=](const Half* cache) {
        return [=](int64_t p) {
          const int64_t owner = p < start ? table[row * positions + p] : row;
          return HalfRow{cache + ((owner * heads + head) * positions + p) * width};
        };
      };
      const auto seen = [=](int64_t token) { return start + token + 1; };
      attend_head(width, q + input, tokens, all, found(keys), found(values), seen, scores.data(),
                  result + input);
    }
  }
  return AOTI_TORCH_SUCCESS;
}

// query float32 [rows, tokens, heads * width]; cross uint8 [windows, 2 * layers, heads, source,
// width + 4], int8 codes and their float32 scale, the keys of `layer` at 2 * layer and its values after them; rows / windows rows of one
// window come one after the other.
extern "C" AOTITorchError aoti_torch_cpu_window_attention(AtenTensorHandle query,
                                                          AtenTensorHandle cross, int64_t layer,
                                                          AtenTensorHandle* out) {
  using namespace exporter;
  const int64_t windows = size(cross, 0), heads = size(cross, 2), source = size(cross, 3);
  const int64_t bytes = size(cross, 4), width = bytes - sizeof(float);
  const int64_t all = heads * width, each = source * bytes;
  const int64_t queries = size(query, 0) * size(query, 1) / windows;
  if (const auto error = make(query, all, out)) return error;
  const float* q = data<float>(query);
  const int8_t* caches = data<int8_t>(cross);
  float* result = data<float>(*out);
  const int64_t layers = size(cross, 1) / 2;
  Work work(windows * heads);
  EXPORTER_PARALLEL {
    std::vector<float> scores(queries * padded(source));
    work.each([&](int64_t item) {
      const int64_t window = item / heads, head = item % heads;
      const int64_t input = window * queries * all + head * width;
      const int8_t* keys = caches + ((window * layers + layer) * 2 * heads + head) * each;
      const auto found = [=](const int8_t* cache) {
        return [=](int64_t p) { return Int8Row{cache + p * bytes, width}; };
      };
      attend_head(width, q + input, queries, all, found(keys), found(keys + heads * each),
                  [=](int64_t) { return source; }, scores.data(), result + input);
    });
  }
  return AOTI_TORCH_SUCCESS;
}
