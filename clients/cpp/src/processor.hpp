// The processor, and how much of it this process may use.
#pragma once

#include <optional>

namespace vit_edge {

// True if this process may use less than the whole machine: by its affinity or by a quota.
bool is_limited();

// The number of threads to compute with: `threads`, or what computes best here; no more than the
// cores that this process may use.
int choose_threads(std::optional<int> threads);

}  // namespace vit_edge
