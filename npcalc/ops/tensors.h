// What the operators of torch share.
#pragma once

#include <ATen/core/Tensor.h>

namespace npcalc {

// Calls work with a zero of the precision of a tensor.
template <typename F>
void in_precision_of(const at::Tensor& t, const F& work) {
  if (t.scalar_type() == at::kFloat)
    work(float(0));
  else
    work(double(0));
}

}  // namespace npcalc
