// Transcribes 16-bit mono recordings of 16 kHz with an aoti artifact of a wav2vec 2.0, without
// Python and torch: the likeliest letter of each frame. See docs/embedding.md.
//
//   g++ -std=c++20 -O2 -I exporter/targets/aoti/kernels/host docs/embedding/transcribe.cpp -o transcribe -ldl
//   ./transcribe ARTIFACT graph.so CLIP.wav ...
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "exporter_graph.h"

using Bytes = std::vector<char>;

Bytes read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <class T>
T at(const Bytes& bytes, size_t offset) {
  T found;
  if (offset + sizeof found > bytes.size()) throw std::runtime_error("a file that is too short");
  std::memcpy(&found, bytes.data() + offset, sizeof found);
  return found;
}

// The samples of a WAV file, with mean 0 and variance 1, as wav2vec 2.0's extractor gives them.
std::vector<float> samples_of(const std::string& path) {
  const Bytes wav = read(path);
  std::vector<float> samples;
  for (size_t chunk = 12; chunk + 8 <= wav.size();) {
    const auto length = at<uint32_t>(wav, chunk + 4);
    const std::string name(wav.data() + chunk, 4);
    if (name == "fmt " && (at<uint16_t>(wav, chunk + 8) != 1 || at<uint16_t>(wav, chunk + 10) != 1 ||
                           at<uint32_t>(wav, chunk + 12) != 16000 || at<uint16_t>(wav, chunk + 22) != 16))
      throw std::runtime_error(path + " is not 16-bit mono of 16 kHz");
    for (size_t i = 0; name == "data" && i + 1 < length; i += 2)
      samples.push_back(at<int16_t>(wav, chunk + 8 + i) / 32768.0F);
    chunk += 8 + length + length % 2;
  }
  double mean = 0, variance = 0;
  for (const float x : samples) mean += x / samples.size();
  for (const float x : samples) variance += (x - mean) * (x - mean) / samples.size();
  for (float& x : samples) x = (x - mean) / std::sqrt(variance + 1e-7);
  return samples;
}

// The tensors of weights.safetensors, which has its header in this form.
std::map<std::string, ExporterTensor> weights_of(Bytes& file) {
  static const std::map<std::string, int32_t> types{
      {"U8", EXPORTER_UINT8}, {"I8", EXPORTER_INT8}, {"I32", EXPORTER_INT32}, {"I64", EXPORTER_INT64},
      {"F16", EXPORTER_FLOAT16}, {"F32", EXPORTER_FLOAT32}, {"BF16", EXPORTER_BFLOAT16}};
  const size_t length = at<uint64_t>(file, 0);
  const std::string header(file.data() + 8, std::min(length, file.size() - 8));
  const std::regex entry(R"re("([^"]+)":\{"dtype":"(\w+)","shape":\[([\d,]*)\],"data_offsets":\[(\d+),(\d+)\]\})re");
  std::map<std::string, ExporterTensor> found;
  for (std::sregex_iterator each(header.begin(), header.end(), entry), end; each != end; ++each) {
    const std::smatch& told = *each;
    if (8 + length + std::stoull(told[5]) > file.size()) throw std::runtime_error("weights that are cut off");
    ExporterTensor tensor{file.data() + 8 + length + std::stoull(told[4]), nullptr, {}, 0, types.at(told[2])};
    const std::string shape = told[3];
    const std::regex number(R"(\d+)");
    for (std::sregex_iterator size(shape.begin(), shape.end(), number); size != end; ++size)
      tensor.sizes[tensor.axes++] = std::stoll(size->str());
    found[told[1]] = tensor;
  }
  return found;
}

std::map<int64_t, std::string> letters_of(const std::string& path) {
  const Bytes bytes = read(path);
  const std::string text(bytes.begin(), bytes.end());
  const std::regex entry(R"re("([^"\\]+)"\s*:\s*(\d+))re");
  std::map<int64_t, std::string> letters;
  for (std::sregex_iterator each(text.begin(), text.end(), entry), end; each != end; ++each)
    letters[std::stoll((*each)[2])] = (*each)[1];
  return letters;
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

template <class Function>
Function* named(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (!found) throw std::runtime_error(std::string("the library has no ") + name);
  return reinterpret_cast<Function*>(found);
}

int main(int count, char** arguments) try {
  if (count < 4) throw std::runtime_error("usage: transcribe ARTIFACT graph.so CLIP.wav ...");
  const std::string folder = arguments[1];
  void* library = dlopen(std::filesystem::absolute(arguments[2]).c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw std::runtime_error(dlerror());
  const auto require = [&](int32_t code) {
    if (code) throw std::runtime_error(named<decltype(exporter_error)>(library, "exporter_error")());
  };
  ExporterGraph* graph = nullptr;
  require(named<decltype(exporter_open)>(library, "exporter_open")(&graph));
  Bytes file = read(folder + "/weights.safetensors");  // mapping it would do as well
  const auto stored = weights_of(file);
  std::vector<ExporterTensor> weights;
  const size_t needed = named<decltype(exporter_num_weights)>(library, "exporter_num_weights")(graph);
  const auto name = named<decltype(exporter_weight_name)>(library, "exporter_weight_name");
  for (size_t index = 0; index < needed; index++) weights.push_back(stored.at(name(graph, index)));
  require(named<decltype(exporter_set_weights)>(library, "exporter_set_weights")(graph, weights.data(), needed));
  const auto letters = letters_of(folder + "/vocab.json");
  const auto run = named<decltype(exporter_run)>(library, "exporter_run");
  for (int each = 3; each < count; each++) {
    std::vector<float> samples = samples_of(arguments[each]);
    const ExporterTensor input{samples.data(), nullptr, {1, static_cast<int64_t>(samples.size())}, 2, EXPORTER_FLOAT32};
    ExporterTensor logits{};
    require(run(graph, &input, 1, &logits, 1, static_cast<int32_t>(std::thread::hardware_concurrency())));
    std::cout << text_of(logits, letters) << "\n";
    named<decltype(exporter_release)>(library, "exporter_release")(logits.owner);
  }
  named<decltype(exporter_close)>(library, "exporter_close")(graph);
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
