// Transcribes 16-bit mono recordings of 16 kHz with an aoti artifact of a Whisper, without Python and
// torch: greedily, without timestamps, each of at most a window (30 s). See docs/embedding.md.
//
//   g++ -std=c++20 -O2 -I exporter/targets/aoti/kernels/host docs/embedding/whisper.cpp -o whisper -ldl
//   ./whisper ARTIFACT GRAPHS CLIP.wav ...
//
// GRAPHS is a folder with encoder.so, decoder.so and decoder.json of the artifact's packages.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <set>

#include "artifact.h"

using Tokens = std::vector<int64_t>;

Tokens tokens_of(const Json* told) {  // a number, a list of numbers, or nothing
  Tokens tokens;
  if (told && told->items.empty() && told->text.empty() && told->number) tokens.push_back(told->number);
  for (size_t i = 0; told && i < told->items.size(); i++) tokens.push_back(told->items[i].number);
  return tokens;
}

// Whisper's features: logarithms of the powers of mel filters (Slaney's), [mels, frames].
class LogMel {
 public:
  explicit LogMel(const Json& told)
      : mels_(told["feature_size"].number), size_(told["n_fft"].number), hop_(told["hop_length"].number),
        window_(told["chunk_length"].number * 16000), bins_(size_ / 2 + 1) {
    const double top = 15 + 27 * std::log(8.0) / std::log(6.4);  // 8 kHz in mels
    std::vector<double> edges;
    for (int i = 0; i < mels_ + 2; i++) {
      const double mel = top * i / (mels_ + 1);
      edges.push_back(mel < 15 ? mel * 1000 / 15 : 1000 * std::exp(std::log(6.4) / 27 * (mel - 15)));
    }
    for (int mel = 0; mel < mels_; mel++)
      for (int bin = 0; bin < bins_; bin++) {
        const double hertz = 16000.0 * bin / size_;
        const double rising = (hertz - edges[mel]) / (edges[mel + 1] - edges[mel]);
        const double falling = (edges[mel + 2] - hertz) / (edges[mel + 2] - edges[mel + 1]);
        filters_.push_back(std::max(0.0, std::min(rising, falling)) * 2 / (edges[mel + 2] - edges[mel]));
      }
    for (int i = 0; i < size_; i++) {
      cosine_.push_back(std::cos(2 * M_PI * i / size_));
      sine_.push_back(std::sin(2 * M_PI * i / size_));
    }
  }
  int frames() const { return window_ / hop_; }
  int mels() const { return mels_; }

  std::vector<float> operator()(const std::vector<float>& samples) const {
    const int length = samples.size();
    if (length > window_) throw std::runtime_error("a recording that is longer than a window");
    std::vector<double> logs(static_cast<size_t>(mels_) * frames(), -10);  // of silence
    const int heard = std::min(frames(), (length + size_ / 2 + hop_ - 1) / hop_);
    for (int frame = 0; frame < heard; frame++) fill(logs, frame, samples);
    const double loudest = *std::max_element(logs.begin(), logs.end());
    std::vector<float> features;
    for (const double log : logs) features.push_back((std::max(log, loudest - 8) + 4) / 4);
    return features;
  }

 private:
  // A plain Fourier transform; an FFT would be faster.
  void fill(std::vector<double>& logs, int frame, const std::vector<float>& samples) const {
    std::vector<double> piece, power;
    for (int i = 0; i < size_; i++) {
      int place = std::abs(frame * hop_ + i - size_ / 2);  // both ends of the window are reflected
      if (place >= window_) place = 2 * (window_ - 1) - place;
      const double sample = place < static_cast<int>(samples.size()) ? samples[place] : 0;
      piece.push_back(sample * (0.5 - 0.5 * cosine_[i]));
    }
    for (int bin = 0; bin < bins_; bin++) {
      double real = 0, imaginary = 0;
      for (int i = 0, turn = 0; i < size_; i++, turn += turn + bin < size_ ? bin : bin - size_) {
        real += piece[i] * cosine_[turn];
        imaginary += piece[i] * sine_[turn];
      }
      power.push_back(real * real + imaginary * imaginary);
    }
    for (int mel = 0; mel < mels_; mel++) {
      double sum = 0;
      for (int bin = 0; bin < bins_; bin++) sum += filters_[mel * bins_ + bin] * power[bin];
      logs[static_cast<size_t>(mel) * frames() + frame] = std::log10(std::max(sum, 1e-10));
    }
  }

  int mels_, size_, hop_, window_, bins_;
  std::vector<double> filters_, cosine_, sine_;
};

// One window that is being decoded: the decoder's inputs, among them caches that it writes itself.
class Decoding {
 public:
  Decoding(const Graph& graph, const Json& spec, const ExporterTensor& encoded)
      : graph_(graph), outputs_(spec["outputs"].names.size()) {
    const auto& names = spec["outputs"].names;
    logits_ = std::find(names.begin(), names.end(), "logits") - names.begin();
    for (size_t i = 0; i < spec["inputs"].names.size(); i++) {
      const std::string& name = spec["inputs"].names[i];
      const Json& told = spec["inputs"].items[i];
      const Type type = TYPES.at(told["dtype"].text);
      ExporterTensor input{nullptr, nullptr, {}, 0, type.code};
      size_t bytes = type.bytes;
      for (const Json& size : told["shape"].items) {  // rows and windows have a name: here they are 1
        input.sizes[input.axes++] = size.text.empty() ? size.number : 1;
        bytes *= input.sizes[input.axes - 1];
      }
      if (name == "input_ids") ids_ = i;
      if (name == "position") position_ = i;
      if (name == "cross_cache") input = encoded;
      memory_.emplace_back(name == "cross_cache" ? 0 : bytes);
      if (name != "cross_cache") input.data = memory_.back().data();
      inputs_.push_back(input);
    }
  }
  // The scores of what follows the tokens so far and these.
  std::vector<float> step(Tokens tokens) {
    inputs_.at(ids_).data = tokens.data();
    inputs_.at(ids_).sizes[1] = tokens.size();
    std::memcpy(inputs_.at(position_).data, &length_, sizeof length_);
    const auto results = graph_.run(inputs_, outputs_);
    const ExporterTensor& logits = results.at(logits_);
    const float* end = static_cast<const float*>(logits.data) + tokens.size() * logits.sizes[2];
    const std::vector<float> scores(end - logits.sizes[2], end);
    graph_.release(results);
    length_ += tokens.size();
    return scores;
  }
  int64_t length() const { return length_; }
  void restart() { length_ = 0; }

 private:
  const Graph& graph_;
  size_t outputs_, logits_ = 0, ids_ = 0, position_ = 0;
  int64_t length_ = 0;
  std::vector<Bytes> memory_;
  std::vector<ExporterTensor> inputs_;
};

int64_t best(const std::vector<float>& scores) {
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

void suppress(std::vector<float>& scores, const Tokens& tokens) {
  for (const int64_t token : tokens)
    if (token >= 0 && token < static_cast<int64_t>(scores.size())) scores[token] = -INFINITY;
}

// The tokens that begin the text: language and task of the recipe, the checkpoint's, or as heard.
Tokens prompt_of(Decoding& window, const Json& generation, const Json& recipe) {
  const int64_t start = generation["decoder_start_token_id"].number;
  Tokens prompt{start};
  const Json *languages = generation.find("lang_to_id"), *several = generation.find("is_multilingual");
  if (languages && !(several && several->text == "false")) {
    const Json* named = recipe.find("language") ? recipe.find("language") : generation.find("language");
    const Json* task = recipe.find("task") ? recipe.find("task") : generation.find("task");
    const Json* token = named ? languages->find("<|" + named->text + "|>") : nullptr;
    if (token) {
      prompt.push_back(token->number);
    } else {
      std::vector<float> scores = window.step({start}), likely(scores.size(), -INFINITY);
      for (const int64_t one : tokens_of(languages)) likely.at(one) = scores.at(one);
      prompt.push_back(best(likely));
      window.restart();
    }
    prompt.push_back(generation["task_to_id"][task ? task->text : "transcribe"].number);
  }
  prompt.push_back(generation["no_timestamps_token_id"].number);
  return prompt;
}

// The bytes of tokens, whose names are written in GPT-2's letters: one for each byte.
std::string text_of(const Tokens& tokens, const std::map<int64_t, std::string>& names) {
  std::map<int, char> bytes;
  for (int byte = 0, more = 256; byte < 256; byte++) {
    const bool plain = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    bytes[plain ? byte : more++] = static_cast<char>(byte);
  }
  std::string text;
  for (const int64_t token : tokens) {
    const std::string& name = names.at(token);
    for (size_t i = 0; i < name.size(); i++) {  // letters of one or two bytes
      const int first = static_cast<unsigned char>(name[i]);
      text += bytes.at(first < 0x80 ? first : (first & 0x1F) << 6 | (name.at(++i) & 0x3F));
    }
  }
  const size_t begin = text.find_first_not_of(' ');
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(' ') + 1 - begin);
}

int main(int count, char** arguments) try {
  if (count < 4) throw std::runtime_error("usage: whisper ARTIFACT GRAPHS CLIP.wav ...");
  const std::string folder = arguments[1], graphs = arguments[2];
  const Json generation = Json::of(folder + "/generation_config.json"), manifest = Json::of(folder + "/manifest.json");
  const Json spec = Json::of(graphs + "/decoder.json"), vocabulary = Json::of(folder + "/vocab.json");
  std::map<int64_t, std::string> names;
  for (size_t i = 0; i < vocabulary.names.size(); i++) names[vocabulary.items[i].number] = vocabulary.names[i];
  const Tokens ends = tokens_of(generation.find("eos_token_id")), never = tokens_of(generation.find("suppress_tokens")),
               not_first = tokens_of(generation.find("begin_suppress_tokens"));
  const int64_t most = Json::of(folder + "/config.json")["max_target_positions"].number;
  const LogMel mel(Json::of(folder + "/preprocessor_config.json"));
  const Weights weights(folder + "/weights.safetensors");
  const Graph encoder(graphs + "/encoder.so", weights), decoder(graphs + "/decoder.so", weights);
  for (int each = 3; each < count; each++) {
    std::vector<float> features = mel(samples_of(arguments[each]));
    const auto encoded = encoder.run({{features.data(), nullptr, {1, mel.mels(), mel.frames()}, 3, EXPORTER_FLOAT32}}, 1);
    Decoding window(decoder, spec, encoded[0]);
    Tokens said, next = prompt_of(window, generation, manifest["decoding"]);
    for (bool first = true;; first = false) {
      std::vector<float> scores = window.step(next);
      suppress(scores, never);
      if (first) suppress(scores, not_first);
      const int64_t token = best(scores);
      if (std::find(ends.begin(), ends.end(), token) != ends.end() || window.length() >= most) break;
      if (token < ends.at(0)) said.push_back(token);  // those above have no text
      next = {token};
    }
    std::cout << text_of(said, names) << "\n";
    encoder.release(encoded);
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
