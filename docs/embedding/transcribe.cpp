// Transcribes 16-bit mono recordings of 16 kHz with an aoti artifact of a wav2vec 2.0, without
// Python and torch: the likeliest letter of each frame. See docs/embedding.md.
//
//   g++ -std=c++20 -O2 -I exporter/targets/aoti/kernels/host docs/embedding/transcribe.cpp -o transcribe -ldl
//   ./transcribe ARTIFACT graph.so CLIP.wav ...
#include <algorithm>
#include <cmath>
#include <iostream>

#include "artifact.h"

// To mean 0 and variance 1, as wav2vec 2.0's extractor gives samples.
void normalise(std::vector<float>& samples) {
  double mean = 0, variance = 0;
  for (const float x : samples) mean += x / samples.size();
  for (const float x : samples) variance += (x - mean) * (x - mean) / samples.size();
  for (float& x : samples) x = (x - mean) / std::sqrt(variance + 1e-7);
}

// Repeated letters are one, `<pad>` parts them, and other tokens in brackets are not written.
std::string text_of(const ExporterTensor& logits, const std::map<int64_t, std::string>& letters) {
  std::string text;
  int64_t before = -1;
  for (int64_t frame = 0; frame < logits.sizes[1]; frame++) {
    const float* row = static_cast<const float*>(logits.data) + frame * logits.sizes[2];
    const int64_t best = std::max_element(row, row + logits.sizes[2]) - row;
    const std::string& letter = letters.at(best);
    if (best != before && letter.front() != '<') text += letter == "|" ? " " : letter;
    before = best;
  }
  return text;
}

int main(int count, char** arguments) try {
  if (count < 4) throw std::runtime_error("usage: transcribe ARTIFACT graph.so CLIP.wav ...");
  const std::string folder = arguments[1];
  const Weights weights(folder + "/weights.safetensors");
  const Graph graph(arguments[2], weights);
  const Json vocabulary = Json::of(folder + "/vocab.json");
  std::map<int64_t, std::string> letters;
  for (size_t i = 0; i < vocabulary.names.size(); i++) letters[vocabulary.items[i].number] = vocabulary.names[i];
  for (int each = 3; each < count; each++) {
    std::vector<float> samples = samples_of(arguments[each]);
    normalise(samples);
    const auto results = graph.run(
        {{samples.data(), nullptr, {1, static_cast<int64_t>(samples.size())}, 2, EXPORTER_FLOAT32}}, 1);
    std::cout << text_of(results[0], letters) << "\n";
    graph.release(results);
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
