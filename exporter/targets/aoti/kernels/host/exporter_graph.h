/* The C interface of a compiled graph, `data/aotinductor/model/graph.wrapper.so` in a package.
 *
 * The library needs no libtorch: libgomp, libstdc++ and libc only. It checks neither the CPU nor its
 * inputs: those are told in the artifact's manifest and in the package's `extra/exporter.json`.
 * Functions return 0, or 1 after an error; then exporter_error() tells which. One graph may be run
 * by several threads, one after the other. */
#ifndef EXPORTER_GRAPH_H
#define EXPORTER_GRAPH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma GCC visibility push(default)

#define EXPORTER_GRAPH_VERSION 1
#define EXPORTER_MOST_AXES 8

enum {
  EXPORTER_UINT8 = 0,
  EXPORTER_INT8 = 1,
  EXPORTER_INT16 = 2,
  EXPORTER_INT32 = 3,
  EXPORTER_INT64 = 4,
  EXPORTER_FLOAT16 = 5,
  EXPORTER_FLOAT32 = 6,
  EXPORTER_FLOAT64 = 7,
  EXPORTER_BOOL = 11,
  EXPORTER_BFLOAT16 = 15
};

/* A contiguous tensor. `owner` is set for outputs only: give it to exporter_release once. */
typedef struct {
  void* data;
  void* owner;
  int64_t sizes[EXPORTER_MOST_AXES];
  int32_t axes;
  int32_t type;
} ExporterTensor;

typedef struct ExporterGraph ExporterGraph;

/* EXPORTER_GRAPH_VERSION of the library. */
int32_t exporter_version(void);

/* Opens the graph, without its weights. */
int32_t exporter_open(ExporterGraph** graph);

size_t exporter_num_weights(const ExporterGraph* graph);

/* The name in weights.safetensors of the weight `index`; NULL if there is none. */
const char* exporter_weight_name(ExporterGraph* graph, size_t index);

/* Sets all weights, in the order of their names. Their memory is not copied, and has to stay. */
int32_t exporter_set_weights(ExporterGraph* graph, const ExporterTensor* weights, size_t count);

/* Runs the graph with so many threads, or those that it was compiled for. Inputs that the package
 * calls mutated are written. */
int32_t exporter_run(ExporterGraph* graph, const ExporterTensor* inputs, size_t num_inputs,
                     ExporterTensor* outputs, size_t num_outputs, int32_t threads);

void exporter_release(void* owner);
void exporter_close(ExporterGraph* graph);

/* What the last function of this thread that returned 1 had to say. */
const char* exporter_error(void);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif
#endif
