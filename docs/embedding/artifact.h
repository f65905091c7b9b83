// What the programs of docs/embedding.md share: files, JSON, WAV, and a graph with its weights.
#pragma once

#include <dlfcn.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "exporter_graph.h"

using Bytes = std::vector<char>;

inline Bytes read(const std::string& path) {
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

// A value of JSON. An object has a name for each of its items; true, false and null are texts.
struct Json {
  std::vector<std::string> names;
  std::vector<Json> items;
  std::string text;
  double number = 0;

  static Json of(const std::string& file) {
    const Bytes bytes = read(file);
    const std::string text(bytes.begin(), bytes.end());
    const char* place = text.c_str();
    return value(place);
  }
  static Json value(const char*& place) {
    Json found;
    if (char open = next(place); open == '{' || open == '[') {
      for (place++; next(place) != (open == '{' ? '}' : ']');) {
        if (open == '{') {
          found.names.push_back(string(place));
          expect(place, ':');
        }
        found.items.push_back(value(place));
        if (next(place) == ',') place++;
      }
      place++;
    } else if (open == '"') {
      found.text = string(place);
    } else if (std::strchr("tfn", open)) {
      while (*place >= 'a' && *place <= 'z') found.text += *place++;
    } else {
      char* end = nullptr;
      found.number = std::strtod(place, &end);
      if (end == place) throw std::runtime_error("a file that is no JSON");
      place = end;
    }
    return found;
  }
  const Json* find(const std::string& name) const {  // nullptr for null, too
    for (size_t i = 0; i < names.size(); i++)
      if (names[i] == name) return items[i].text == "null" ? nullptr : &items[i];
    return nullptr;
  }
  const Json& operator[](const std::string& name) const {
    if (const Json* found = find(name)) return *found;
    throw std::runtime_error("a file has no " + name);
  }

 private:
  static char next(const char*& place) {
    while (*place && std::strchr(" \t\r\n", *place)) place++;
    if (!*place) throw std::runtime_error("a file that is cut off");
    return *place;
  }
  static void expect(const char*& place, char sign) {
    if (next(place) != sign) throw std::runtime_error("a file that is no JSON");
    place++;
  }
  static uint32_t hexadecimal(const char* digits) {
    uint32_t code = 0;
    for (int i = 0; i < 4; i++) {
      const char* known = digits[i] ? std::strchr("0123456789abcdefABCDEF", digits[i]) : nullptr;
      if (!known) throw std::runtime_error("a file that is no JSON");
      code = code * 16 + (digits[i] <= '9' ? digits[i] - '0' : (digits[i] | 32) - 'a' + 10);
    }
    return code;
  }
  static std::string string(const char*& place) {
    std::string found;
    for (expect(place, '"'); *place && *place != '"'; place++) {
      if (*place != '\\') {
        found += *place;
      } else if (*++place == 'u') {
        uint32_t code = hexadecimal(place + 1);
        place += 4;
        if (code >> 10 == 0x36 && place[1] == '\\' && place[2] == 'u') {  // half of a surrogate pair
          code = 0x10000 + ((code & 0x3FF) << 10) + (hexadecimal(place + 3) & 0x3FF);
          place += 6;
        }
        const int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        found += more ? static_cast<char>(0xFF << (7 - more) | code >> 6 * more) : static_cast<char>(code);
        for (int i = more - 1; i >= 0; i--) found += static_cast<char>(0x80 | ((code >> 6 * i) & 0x3F));
      } else {
        if (!*place) throw std::runtime_error("a file that is cut off");
        const char* known = std::strchr("b\bf\fn\nr\rt\t", *place);
        found += known ? known[1] : *place;
      }
    }
    expect(place, '"');
    return found;
  }
};

// The samples of a WAV file, in [-1, 1].
inline std::vector<float> samples_of(const std::string& path) {
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
    chunk += 8 + static_cast<size_t>(length) + length % 2;
  }
  return samples;
}

struct Type {
  int32_t code;
  size_t bytes;
};
// By the names of safetensors and of exporter.json.
inline const std::map<std::string, Type> TYPES{
    {"U8", {EXPORTER_UINT8, 1}},     {"I8", {EXPORTER_INT8, 1}},       {"I32", {EXPORTER_INT32, 4}},
    {"I64", {EXPORTER_INT64, 8}},    {"F16", {EXPORTER_FLOAT16, 2}},   {"F32", {EXPORTER_FLOAT32, 4}},
    {"BF16", {EXPORTER_BFLOAT16, 2}}, {"uint8", {EXPORTER_UINT8, 1}},  {"int8", {EXPORTER_INT8, 1}},
    {"int32", {EXPORTER_INT32, 4}},  {"int64", {EXPORTER_INT64, 8}},   {"float16", {EXPORTER_FLOAT16, 2}},
    {"float32", {EXPORTER_FLOAT32, 4}}, {"bfloat16", {EXPORTER_BFLOAT16, 2}}};

// An artifact's weights.safetensors in memory; mapping it would do as well.
class Weights {
 public:
  explicit Weights(const std::string& path) : file_(read(path)) {
    const size_t start = 8 + at<uint64_t>(file_, 0);
    if (start > file_.size()) throw std::runtime_error("weights that are cut off");
    const std::string header(file_.data() + 8, start - 8);
    const char* place = header.c_str();
    const Json told = Json::value(place);
    for (size_t i = 0; i < told.names.size(); i++) {
      if (told.names[i] == "__metadata__") continue;
      const auto& ends = told.items[i]["data_offsets"].items;
      if (start + ends.at(1).number > file_.size()) throw std::runtime_error("weights that are cut off");
      ExporterTensor tensor{file_.data() + start + static_cast<size_t>(ends.at(0).number), nullptr, {}, 0,
                            TYPES.at(told.items[i]["dtype"].text).code};
      for (const Json& size : told.items[i]["shape"].items) tensor.sizes[tensor.axes++] = size.number;
      found_[told.names[i]] = tensor;
    }
  }
  const ExporterTensor& operator[](const char* name) const {
    const auto found = found_.find(name ? name : "");
    if (found == found_.end()) throw std::runtime_error("the artifact lacks a weight of the graph");
    return found->second;
  }

 private:
  Bytes file_;
  std::map<std::string, ExporterTensor> found_;
};

// A graph with its weights, which have to outlive it.
class Graph {
 public:
  Graph(const std::string& path, const Weights& stored) {
    library_ = dlopen(std::filesystem::absolute(path).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library_) throw std::runtime_error(dlerror());
    require(named<decltype(exporter_open)>("exporter_open")(&graph_));
    std::vector<ExporterTensor> weights;
    const size_t needed = named<decltype(exporter_num_weights)>("exporter_num_weights")(graph_);
    const auto name = named<decltype(exporter_weight_name)>("exporter_weight_name");
    for (size_t index = 0; index < needed; index++) weights.push_back(stored[name(graph_, index)]);
    require(named<decltype(exporter_set_weights)>("exporter_set_weights")(graph_, weights.data(), needed));
  }
  Graph(const Graph&) = delete;
  ~Graph() {
    if (graph_) named<decltype(exporter_close)>("exporter_close")(graph_);
  }
  // Runs on all cores; give each result to `release` once.
  std::vector<ExporterTensor> run(const std::vector<ExporterTensor>& inputs, size_t outputs) const {
    std::vector<ExporterTensor> found(outputs);
    const auto threads = static_cast<int32_t>(std::thread::hardware_concurrency());
    require(named<decltype(exporter_run)>("exporter_run")(graph_, inputs.data(), inputs.size(), found.data(), outputs, threads));
    return found;
  }
  void release(const std::vector<ExporterTensor>& results) const {
    for (const auto& one : results) named<decltype(exporter_release)>("exporter_release")(one.owner);
  }

 private:
  template <class Function>
  Function* named(const char* name) const {
    void* found = dlsym(library_, name);
    if (!found) throw std::runtime_error(std::string("the library has no ") + name);
    return reinterpret_cast<Function*>(found);
  }
  void require(int32_t code) const {
    if (code) throw std::runtime_error(named<decltype(exporter_error)>("exporter_error")());
  }

  void* library_ = nullptr;
  ExporterGraph* graph_ = nullptr;
};
