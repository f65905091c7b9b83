// The C functions by which AOTInductor's code handles tensors, without libtorch. Their declarations
// are torch's own. What else a package may call is missing when it is linked, by name.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "tensor.h"

namespace exporter {

constexpr size_t kAlignment = 64;  // a cache line, and the widest register
constexpr size_t kHugePage = 2 << 20;

int64_t width(int32_t dtype) {
  switch (dtype) {
    case kUint8: case kInt8: case kBool: return 1;
    case kInt16: case kFloat16: case kBfloat16: return 2;
    case kInt32: case kFloat32: return 4;
    case kInt64: case kFloat64: return 8;
    default: throw std::runtime_error("a tensor of an unknown type");
  }
}

AtenTensorHandle on(void* data, int64_t axes, const int64_t* sizes, const int64_t* strides,
                    int32_t dtype) {
  if (axes < 0 || axes > AtenTensorOpaque::kMostAxes)
    throw std::runtime_error("a tensor of more than 8 axes");
  auto made = std::make_unique<AtenTensorOpaque>();
  made->data = data;
  made->axes = axes;
  made->dtype = dtype;
  for (int64_t axis = axes, step = 1; axis-- > 0; step *= sizes[axis]) {
    made->sizes[axis] = sizes[axis];
    made->strides[axis] = strides ? strides[axis] : step;
  }
  return made.release();
}

AtenTensorHandle allocated(int64_t axes, const int64_t* sizes, const int64_t* strides,
                           int32_t dtype) {
  std::unique_ptr<AtenTensorOpaque> made(on(nullptr, axes, sizes, strides, dtype));
  int64_t extent = 1;
  for (int64_t axis = 0; axis < axes; axis++) {
    if (sizes[axis] == 0) {
      extent = 0;
      break;
    }
    extent += (sizes[axis] - 1) * made->strides[axis];
  }
  const size_t bytes = extent * width(dtype);
  const size_t alignment = bytes < kHugePage ? kAlignment : kHugePage;
  const size_t rounded = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, rounded)) throw std::bad_alloc();
  // Large tensors are made anew for every window, and clearing small pages one by one takes long.
  if (alignment == kHugePage) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  made->memory = std::shared_ptr<void>(memory, std::free);
  made->data = memory;
  return made.release();
}

namespace {

void copy_axis(const AtenTensorOpaque& from, const AtenTensorOpaque& to, int64_t axis,
               const char* read, char* write, int64_t bytes) {
  if (axis == from.axes) {
    std::memcpy(write, read, bytes);
    return;
  }
  for (int64_t index = 0; index < from.sizes[axis]; index++)
    copy_axis(from, to, axis + 1, read + index * from.strides[axis] * bytes,
              write + index * to.strides[axis] * bytes, bytes);
}

}  // namespace

void copy(const AtenTensorOpaque& from, const AtenTensorOpaque& to) {
  const int64_t bytes = width(from.dtype);
  if (from.contiguous() && to.contiguous())
    std::memcpy(to.data, from.data, from.numel() * bytes);
  else
    copy_axis(from, to, 0, static_cast<char*>(from.data), static_cast<char*>(to.data), bytes);
}

AtenTensorHandle contiguous_copy(const AtenTensorOpaque& tensor) {
  const AtenTensorHandle made = allocated(tensor.axes, tensor.sizes, nullptr, tensor.dtype);
  copy(tensor, *made);
  return made;
}

}  // namespace exporter

extern "C" {

int32_t aoti_torch_device_type_cpu() { return 0; }
int32_t aoti_torch_device_type_cuda() { return 1; }
int32_t aoti_torch_dtype_uint8() { return exporter::kUint8; }
int32_t aoti_torch_dtype_int8() { return exporter::kInt8; }
int32_t aoti_torch_dtype_int16() { return exporter::kInt16; }
int32_t aoti_torch_dtype_int32() { return exporter::kInt32; }
int32_t aoti_torch_dtype_int64() { return exporter::kInt64; }
int32_t aoti_torch_dtype_float16() { return exporter::kFloat16; }
int32_t aoti_torch_dtype_float32() { return exporter::kFloat32; }
int32_t aoti_torch_dtype_float64() { return exporter::kFloat64; }
int32_t aoti_torch_dtype_bool() { return exporter::kBool; }
int32_t aoti_torch_dtype_bfloat16() { return exporter::kBfloat16; }
int32_t aoti_torch_layout_strided() { return 0; }

bool aoti_torch_grad_mode_is_enabled() { return false; }
void aoti_torch_grad_mode_set_enabled(bool) {}

void aoti_torch_check(bool met, const char*, const char*, uint32_t, const char* message) {
  if (!met) throw std::runtime_error(message);
}

AOTITorchError aoti_torch_create_tensor_from_blob(void* data, int64_t axes, const int64_t* sizes,
                                                  const int64_t* strides, int64_t offset,
                                                  int32_t dtype, int32_t, int32_t,
                                                  AtenTensorHandle* made) {
  *made = exporter::on(static_cast<char*>(data) + offset * exporter::width(dtype), axes, sizes,
                       strides, dtype);
  (*made)->offset = offset;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_create_tensor_from_blob_v2(void* data, int64_t axes,
                                                     const int64_t* sizes, const int64_t* strides,
                                                     int64_t offset, int32_t dtype, int32_t device,
                                                     int32_t index, AtenTensorHandle* made,
                                                     int32_t, const uint8_t*, int64_t) {
  return aoti_torch_create_tensor_from_blob(data, axes, sizes, strides, offset, dtype, device,
                                            index, made);
}

AOTITorchError aoti_torch_empty_strided(int64_t axes, const int64_t* sizes, const int64_t* strides,
                                        int32_t dtype, int32_t, int32_t, AtenTensorHandle* made) {
  *made = exporter::allocated(axes, sizes, strides, dtype);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor) {
  delete tensor;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle tensor, AtenTensorHandle* made) {
  *made = new AtenTensorOpaque(*tensor);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch__reinterpret_tensor(AtenTensorHandle tensor, int64_t axes,
                                              const int64_t* sizes, const int64_t* strides,
                                              int64_t further, AtenTensorHandle* made) {
  char* data = static_cast<char*>(tensor->data) + further * exporter::width(tensor->dtype);
  *made = exporter::on(data, axes, sizes, strides, tensor->dtype);
  (*made)->memory = tensor->memory;
  (*made)->offset = tensor->offset + further;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_clone(AtenTensorHandle tensor, AtenTensorHandle* made) {
  *made = exporter::allocated(tensor->axes, tensor->sizes, tensor->strides, tensor->dtype);
  exporter::copy(*tensor, **made);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_copy_(AtenTensorHandle to, AtenTensorHandle from, int32_t) {
  if (from->dtype != to->dtype || from->axes != to->axes) return AOTI_TORCH_FAILURE;
  for (int64_t axis = 0; axis < to->axes; axis++)
    if (from->sizes[axis] != to->sizes[axis]) return AOTI_TORCH_FAILURE;
  exporter::copy(*from, *to);
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** data) {
  *data = tensor->data;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) {
  *type = aoti_torch_device_type_cpu();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* axes) {
  *axes = tensor->axes;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* dtype) {
  *dtype = tensor->dtype;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_numel(AtenTensorHandle tensor, int64_t* count) {
  *count = tensor->numel();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_size(AtenTensorHandle tensor, int64_t axis, int64_t* size) {
  *size = tensor->sizes[axis];
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_stride(AtenTensorHandle tensor, int64_t axis, int64_t* stride) {
  *stride = tensor->strides[axis];
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** sizes) {
  *sizes = tensor->sizes;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** strides) {
  *strides = tensor->strides;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_storage_offset(AtenTensorHandle tensor, int64_t* offset) {
  *offset = tensor->offset;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError aoti_torch_get_storage_size(AtenTensorHandle tensor, int64_t* bytes) {
  *bytes = tensor->numel() * exporter::width(tensor->dtype);
  return AOTI_TORCH_SUCCESS;
}

}  // extern "C"
