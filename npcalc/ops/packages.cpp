// Packages of machine code that run without Python's lock, so that several threads of Python can run one at once.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/custom_class.h>

#include <string>
#include <utility>
#include <vector>

namespace {

struct Package : torch::CustomClassHolder {
  // Of a file made by TorchInductor; calls beyond `at_once` wait for each other.
  Package(const std::string& path, int64_t at_once) : loader(path, "model", false, size_t(at_once)) {}

  std::vector<at::Tensor> run(std::vector<at::Tensor> inputs) {
    // The gradient is part of what was compiled. Operators whose derivatives are told in Python would ask there.
    at::AutoDispatchBelowADInplaceOrView guard;
    return loader.boxed_run(std::move(inputs));
  }

  torch::inductor::AOTIModelPackageLoader loader;
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(npcalc, library) {
  library.class_<Package>("Package").def(torch::init<std::string, int64_t>()).def("run", &Package::run);
}
