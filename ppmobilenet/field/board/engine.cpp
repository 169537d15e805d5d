#include "engine.hpp"

#include <cstring>
#include <map>

#include "guard.hpp"
#include "paddle_api.h"  // NOLINT

namespace ppmobilenet {

Engine::Engine(const Package& package, const Form& form, int threads, const std::string& power) : package_(package) {
  using namespace paddle::lite_api;  // NOLINT
  static const std::map<std::string, PowerMode> kPowers = {
      {"high", LITE_POWER_HIGH},       {"low", LITE_POWER_LOW},
      {"full", LITE_POWER_FULL},       {"none", LITE_POWER_NO_BIND},
      {"rand-high", LITE_POWER_RAND_HIGH}, {"rand-low", LITE_POWER_RAND_LOW}};
  const auto mode = kPowers.find(power);
  if (mode == kPowers.end()) {
    throw Failure(kUsage, "unknown power mode \"" + power + "\": high, low, full, none, rand-high or rand-low");
  }
  if (form.files.empty()) throw Failure(kDamaged, "the form " + form.name + " has no file: export the model again");
  const std::string model = package.checked(form.files[0]);
  MobileConfig config;
  config.set_model_from_file(model);
  config.set_threads(threads);
  config.set_power_mode(mode->second);
  const Guard guard(kDamaged, "Paddle Lite gave up while loading " + model + ", which is as it was exported: it needs " +
                                  "the runtime " + package.lite_runtime + " of this processor's kind");
  try {
    predictor_ = CreatePaddlePredictor<MobileConfig>(config);
  } catch (const std::exception& error) {
    throw Failure(kDamaged, "Paddle Lite cannot load " + model + ": " + error.what());
  }
  if (!predictor_) throw Failure(kDamaged, "Paddle Lite cannot load " + model);
}

Engine::~Engine() = default;

std::vector<float> Engine::run(const Image& image) {
  const auto& shape = package_.input_shape;
  const Guard guard(kNumerics, "Paddle Lite gave up while running the model");
  auto input = predictor_->GetInput(0);
  input->Resize({1, shape[1], shape[2], shape[3]});
  if (package_.input_dtype == "float32") {
    std::memcpy(input->mutable_data<float>(), image.planes.data(), image.planes.size() * sizeof(float));
  } else {
    std::memcpy(input->mutable_data<uint8_t>(), image.byte_planes.data(), image.byte_planes.size());
  }
  try {
    predictor_->Run();
  } catch (const std::exception& error) {
    throw Failure(kNumerics, std::string("Paddle Lite failed to run the model: ") + error.what());
  }
  auto output = predictor_->GetOutput(0);
  int64_t count = 1;
  for (const int64_t extent : output->shape()) count *= extent;
  if (count != package_.class_num) {
    throw Failure(kDamaged, "the model gives " + std::to_string(count) + " values, the package says " +
                                std::to_string(package_.class_num) + " classes");
  }
  const float* values = output->data<float>();
  return std::vector<float>(values, values + count);
}

std::string Engine::runtime_version() const { return predictor_->GetVersion(); }

}  // namespace ppmobilenet
