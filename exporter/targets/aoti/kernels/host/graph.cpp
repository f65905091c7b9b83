// The interface that a package has without libtorch, around AOTInductor's own.
#include <omp.h>
#include <torch/csrc/inductor/aoti_runtime/interface.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "exporter_graph.h"
#include "tensor.h"
#include "weight_names.h"

namespace exporter {

namespace {

thread_local std::string message;

template <class Run>
int32_t guarded(Run run) {
  try {
    run();
    return 0;
  } catch (const std::exception& error) {
    message = error.what();
  }
  return 1;
}

void require(AOTIRuntimeError code) {
  if (code == 0) return;
  const char* said = nullptr;
  AOTInductorGetLastError(&said);
  throw std::runtime_error(said && *said ? said : "the graph failed");
}

void require_count(size_t found, size_t wanted, const char* what) {
  if (found != wanted)
    throw std::runtime_error("the graph has " + std::to_string(wanted) + " " + what + ", not " +
                             std::to_string(found));
}

AtenTensorHandle given(const ExporterTensor& tensor) {
  return on(tensor.data, tensor.axes, tensor.sizes, nullptr, tensor.type);
}

struct Threads {  // of this thread's parallel regions, while it lives
  const int before = omp_get_max_threads();
  explicit Threads(int32_t count) { omp_set_num_threads(count > 0 ? count : before); }
  ~Threads() { omp_set_num_threads(before); }
};

const char* stored_name(const char* own) {
  for (size_t index = 0; index < kNumWeightNames; index++)
    if (std::string_view(own) == kWeightNames[index].own) return kWeightNames[index].stored;
  return nullptr;
}

// Hands an output over.
void give(AtenTensorHandle result, ExporterTensor& to) {
  std::unique_ptr<AtenTensorOpaque> tensor(result);
  // A view of an input is copied too: its memory is the caller's.
  if (!tensor->contiguous() || !tensor->memory) tensor.reset(contiguous_copy(*tensor));
  to = {tensor->data, nullptr, {}, static_cast<int32_t>(tensor->axes), tensor->dtype};
  std::copy_n(tensor->sizes, tensor->axes, to.sizes);
  to.owner = tensor.release();
}

}  // namespace
}  // namespace exporter

struct ExporterGraph {
  AOTInductorModelContainerHandle container = nullptr;
  std::vector<std::unique_ptr<AtenTensorOpaque>> weights;

  ~ExporterGraph() {
    if (container) AOTInductorModelContainerDelete(container);
  }

  size_t num_weights() const {
    size_t count = 0;
    exporter::require(AOTInductorModelContainerGetNumConstants(container, &count));
    return count;
  }
};

extern "C" {

int32_t exporter_version(void) { return EXPORTER_GRAPH_VERSION; }

const char* exporter_error(void) { return exporter::message.c_str(); }

int32_t exporter_open(ExporterGraph** graph) {
  return exporter::guarded([&] {
    auto made = std::make_unique<ExporterGraph>();
    exporter::require(
        AOTInductorModelContainerCreateWithDevice(&made->container, 1, "cpu", nullptr));
    *graph = made.release();
  });
}

size_t exporter_num_weights(const ExporterGraph* graph) {
  size_t count = 0;
  exporter::guarded([&] { count = graph->num_weights(); });
  return count;
}

const char* exporter_weight_name(ExporterGraph* graph, size_t index) {
  const char* found = nullptr;
  exporter::guarded([&] {
    const char* own = nullptr;
    exporter::require(
        AOTInductorModelContainerGetConstantOriginalFQN(graph->container, index, &own));
    found = exporter::stored_name(own);
  });
  return found;
}

int32_t exporter_set_weights(ExporterGraph* graph, const ExporterTensor* weights, size_t count) {
  return exporter::guarded([&] {
    exporter::require_count(count, graph->num_weights(), "weights");
    std::vector<AOTInductorConstantMapEntry> entries(count);
    std::vector<std::unique_ptr<AtenTensorOpaque>> tensors;
    for (size_t index = 0; index < count; index++) {
      tensors.emplace_back(exporter::given(weights[index]));
      entries[index].handle = tensors.back().get();
      exporter::require(AOTInductorModelContainerGetConstantName(graph->container, index,
                                                                 &entries[index].name));
    }
    exporter::require(AOTInductorModelContainerUpdateUserManagedConstantBufferPairs(
        graph->container, entries.data(), count, false, true));
    graph->weights = std::move(tensors);
  });
}

int32_t exporter_run(ExporterGraph* graph, const ExporterTensor* inputs, size_t num_inputs,
                     ExporterTensor* outputs, size_t num_outputs, int32_t threads) {
  return exporter::guarded([&] {
    size_t wanted = 0;
    exporter::require(AOTInductorModelContainerGetNumInputs(graph->container, &wanted));
    exporter::require_count(num_inputs, wanted, "inputs");
    exporter::require(AOTInductorModelContainerGetNumOutputs(graph->container, &wanted));
    exporter::require_count(num_outputs, wanted, "outputs");
    const exporter::Threads set(threads);
    std::vector<AtenTensorHandle> given(num_inputs), results(num_outputs);
    for (size_t index = 0; index < num_inputs; index++)
      given[index] = exporter::given(inputs[index]);  // the graph deletes it
    exporter::require(AOTInductorModelContainerRun(graph->container, given.data(), num_inputs,
                                                   results.data(), num_outputs, nullptr, nullptr));
    for (size_t index = 0; index < num_outputs; index++)
      exporter::give(results[index], outputs[index]);
  });
}

void exporter_release(void* owner) { delete static_cast<AtenTensorHandle>(owner); }

void exporter_close(ExporterGraph* graph) { delete graph; }

}  // extern "C"
