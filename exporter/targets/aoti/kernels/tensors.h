// What the kernels see of a tensor, and how they make one: the C interface that AOTInductor's
// packages call libtorch by. Callers pass contiguous tensors only.
#pragma once

#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <atomic>
#include <cstdint>
#include <vector>

#ifdef EXPORTER_THREADS
#define EXPORTER_PARALLEL _Pragma("omp parallel num_threads(EXPORTER_THREADS)")
#else
#define EXPORTER_PARALLEL _Pragma("omp parallel")
#define EXPORTER_THREADS omp_get_max_threads()
#endif

namespace exporter {

template <typename T>
T* data(AtenTensorHandle tensor) {
  void* address = nullptr;
  aoti_torch_get_data_ptr(tensor, &address);
  return static_cast<T*>(address);
}

inline int64_t size(AtenTensorHandle tensor, int64_t axis) {
  int64_t found = 0;
  aoti_torch_get_size(tensor, axis, &found);
  return found;
}

// A float32 tensor of the shape of `like`, but for the length of its last axis.
inline AOTITorchError make(AtenTensorHandle like, int64_t last, AtenTensorHandle* made) {
  int64_t sizes[8], strides[8], axes = 0;
  aoti_torch_get_dim(like, &axes);
  for (int64_t axis = axes, step = 1; axis-- > 0;) {
    sizes[axis] = axis + 1 == axes ? last : size(like, axis);
    strides[axis] = step;
    step *= sizes[axis];
  }
  return aoti_torch_empty_strided(axes, sizes, strides, aoti_torch_dtype_float32(),
                                  aoti_torch_device_type_cpu(), 0, made);
}

inline int64_t count(AtenTensorHandle tensor) {
  int64_t found = 0;
  aoti_torch_get_numel(tensor, &found);
  return found;
}

// What of [0, count) belongs to the calling thread.
struct Share {
  int64_t begin, end;
  explicit Share(int64_t count) : Share(count, omp_get_thread_num(), omp_get_num_threads()) {}
  Share(int64_t count, int64_t thread, int64_t threads)
      : begin(count * thread / threads), end(count * (thread + 1) / threads) {}
};

// Items of work for a team of threads. Each takes those of its own share, one after the other, so
// that what it prepared for one serves the next; then those left of others' shares, because cores
// differ in speed.
class Work {
 public:
  explicit Work(int64_t count) : shares_(EXPORTER_THREADS) {
    const auto shares = static_cast<int64_t>(shares_.size());
    for (int64_t share = 0; share < shares; share++) {
      const Share own(count, share, shares);
      shares_[share].next = own.begin;
      shares_[share].end = own.end;
    }
  }

  template <class Run>
  void each(Run run) {
    for (size_t turn = 0; turn < shares_.size(); turn++) {
      Rest& rest = shares_[(omp_get_thread_num() + turn) % shares_.size()];
      while (rest.next < rest.end) {
        const int64_t item = rest.next++;
        if (item < rest.end) run(item);
      }
    }
  }

 private:
  struct alignas(64) Rest {  // a cache line of its own
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Rest> shares_;
};

}  // namespace exporter
