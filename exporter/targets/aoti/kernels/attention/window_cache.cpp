// The keys or values of a window, as the decoder's steps read them: int8 and a scale for each
// position of a head.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "tensors.h"

namespace {

// `width` numbers become as many codes, which the scale's four bytes follow.
void pack(const float* numbers, int64_t width, int8_t* codes) {
  float peak = 0;
#pragma omp simd reduction(max : peak)
  for (int64_t d = 0; d < width; d++) peak = std::max(peak, std::fabs(numbers[d]));
  const float scale = std::max(peak / 127, FLT_MIN);
#pragma omp simd
  for (int64_t d = 0; d < width; d++)
    codes[d] = static_cast<int8_t>(static_cast<int>(std::nearbyint(numbers[d] / scale)));
  __builtin_memcpy(codes + width, &scale, sizeof scale);
}

}  // namespace

// states float32 [windows, source, heads * width] become cross[:, index], where cross is uint8
// [windows, 2 * layers, heads, source, width + 4]. The last argument is for a result, and null.
extern "C" AOTITorchError aoti_torch_cpu_keep_window(AtenTensorHandle states,
                                                     AtenTensorHandle cross, int64_t index,
                                                     AtenTensorHandle*) {
  using namespace exporter;
  const int64_t windows = size(cross, 0), kept = size(cross, 1), heads = size(cross, 2);
  const int64_t source = size(cross, 3), bytes = size(cross, 4), width = bytes - sizeof(float);
  const float* numbers = data<float>(states);
  int8_t* caches = data<int8_t>(cross);
  EXPORTER_PARALLEL {
    const Share mine(windows * source);
    for (int64_t item = mine.begin; item < mine.end; item++) {
      const int64_t window = item / source, position = item % source;
      for (int64_t head = 0; head < heads; head++)
        pack(numbers + (item * heads + head) * width, width,
             caches + (((window * kept + index) * heads + head) * source + position) * bytes);
    }
  }
  return AOTI_TORCH_SUCCESS;
}
