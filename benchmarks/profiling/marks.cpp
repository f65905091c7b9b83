// When each kernel of a marked package ran: in the place of torch's profiler, which packages without
// libtorch lack.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <chrono>
#include <cstddef>
#include <vector>

namespace {

struct Mark {
  const char* name;
  double seconds;
};

std::vector<Mark> marks;
std::chrono::steady_clock::time_point start;
const char* open = nullptr;  // the mark that others lie within

}  // namespace

extern "C" {

AOTITorchError aoti_record_function_start(const char* name, IValueMapHandle,
                                          const C10IValueHandle*, const uint64_t,
                                          AtenRecordFunctionHandle* guard) {
  *guard = nullptr;
  if (open) return AOTI_TORCH_SUCCESS;
  open = name;
  *guard = reinterpret_cast<AtenRecordFunctionHandle>(&open);
  start = std::chrono::steady_clock::now();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_record_function_end(AtenRecordFunctionHandle) {  // only of the outer ones
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  marks.push_back({open, taken.count()});
  open = nullptr;
  return AOTI_TORCH_SUCCESS;
}

// The marks since the last call, in order; they stay until the graph runs again.
__attribute__((visibility("default"))) size_t exporter_marks(const Mark** found) {
  static std::vector<Mark> taken;
  taken.swap(marks);
  marks.clear();
  *found = taken.data();
  return taken.size();
}

}  // extern "C"
