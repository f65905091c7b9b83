// The module's name of each weight and its name in the file; `kernels.host_sources` writes them.
#pragma once

#include <cstddef>

namespace exporter {

struct WeightName {
  const char *own, *stored;
};
extern const WeightName kWeightNames[];
extern const size_t kNumWeightNames;

}  // namespace exporter
