// Sums of products of float32, for what AOTInductor leaves to libtorch's matrix products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "../tensors.h"
#include "tensor.h"
#include "vector_math.h"

namespace exporter {

#ifdef __AVX512F__
constexpr int kFloats = 16, kParts = 4;  // of a register; registers of a panel's row
#else
constexpr int kFloats = 8, kParts = 2;
#endif
constexpr int64_t kColumns = kFloats * kParts;  // of a panel
constexpr int64_t kTileRows = 6;                // that go against it at once
constexpr int64_t kDepth = 256;                 // rows of a panel, which stay in the caches

using Floats = Register<kFloats>::Floats;

// Numbers of a matrix, and what lies between its rows and between its columns.
struct Matrix {
  float* data;
  int64_t row, column;

  Matrix at(int64_t r, int64_t c) const { return {data + r * row + c * column, row, column}; }
};

inline Floats loaded(const float* from) {
  Floats found;
  __builtin_memcpy(&found, from, sizeof found);
  return found;
}

class Panel {  // [kDepth][kColumns], of one thread
 public:
  Panel()
      : numbers_(static_cast<float*>(std::aligned_alloc(64, kDepth * kColumns * sizeof(float)))) {
    if (!numbers_) throw std::bad_alloc();
  }
  float* row(int64_t k) { return numbers_.get() + k * kColumns; }

  // Rows and columns of a matrix; zeros behind its columns.
  void fill(const Matrix& from, int64_t depth, int64_t columns) {
    if (columns < kColumns) std::fill_n(row(0), depth * kColumns, 0.0F);
    if (from.column == 1) {
      for (int64_t k = 0; k < depth; k++) std::copy_n(from.data + k * from.row, columns, row(k));
    } else {
      for (int64_t c = 0; c < columns; c++)
        for (int64_t k = 0; k < depth; k++) row(k)[c] = from.data[c * from.column + k * from.row];
    }
  }

 private:
  struct Free {
    void operator()(float* numbers) const { std::free(numbers); }
  };
  std::unique_ptr<float, Free> numbers_;
};

// out[rows][columns] += left[rows][depth] panel[depth][columns].
template <int rows>
void add_tile(const Matrix& left, Panel& panel, int64_t depth, const Matrix& out,
              int64_t columns) {
  Floats sums[rows][kParts] = {};
  for (int64_t k = 0; k < depth; k++) {
    Floats x[kParts];
#pragma GCC unroll 4
    for (int part = 0; part < kParts; part++) x[part] = loaded(panel.row(k) + part * kFloats);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      const float w = left.data[r * left.row + k * left.column];
#pragma GCC unroll 4
      for (int part = 0; part < kParts; part++) sums[r][part] += w * x[part];
    }
  }
  for (int r = 0; r < rows; r++) {
    float row[kColumns];
    __builtin_memcpy(row, sums[r], sizeof row);
    float* place = out.data + r * out.row;
    if (out.column == 1) {
      for (int64_t c = 0; c < columns; c++) place[c] += row[c];
    } else {
      for (int64_t c = 0; c < columns; c++) place[c * out.column] += row[c];
    }
  }
}

// The same for any number of rows.
inline void add_rows(const Matrix& left, int64_t rows, Panel& panel, int64_t depth,
                     const Matrix& out, int64_t columns) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    add_tile<kTileRows>(left.at(r, 0), panel, depth, out.at(r, 0), columns);
  for (; r < rows; r++) add_tile<1>(left.at(r, 0), panel, depth, out.at(r, 0), columns);
}

// out[rows][columns] += left[rows][depth] right[depth][columns], by one thread.
inline void add_product(const Matrix& left, const Matrix& right, const Matrix& out, int64_t rows,
                        int64_t columns, int64_t depth, Panel& panel) {
  for (int64_t column = 0; column < columns; column += kColumns) {
    const int64_t width = std::min(kColumns, columns - column);
    for (int64_t k = 0; k < depth; k += kDepth) {
      const int64_t deep = std::min(kDepth, depth - k);
      panel.fill(right.at(k, column), deep, width);
      add_rows(left.at(0, k), rows, panel, deep, out.at(0, column), width);
    }
  }
}

// Sets rows of `count` matrices [rows][columns] to the products of theirs, by all threads:
// `run(index, row, rows, column, columns)` computes a block of one matrix.
template <class Run>
void each_block(int64_t count, int64_t rows, int64_t columns, Run run) {
  constexpr int64_t kRows = 16 * kTileRows;
  const int64_t down = (rows + kRows - 1) / kRows, across = (columns + kColumns - 1) / kColumns;
  Work work(count * down * across);
  EXPORTER_PARALLEL {
    Panel panel;
    work.each([&](int64_t item) {
      const int64_t index = item / (down * across);
      const int64_t row = item / across % down * kRows, column = item % across * kColumns;
      run(index, row, std::min(kRows, rows - row), column, std::min(kColumns, columns - column),
          panel);
    });
  }
}

inline bool are_floats(std::initializer_list<const AtenTensorOpaque*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(),
                     [](const auto* tensor) { return tensor->dtype == kFloat32; });
}

}  // namespace exporter
