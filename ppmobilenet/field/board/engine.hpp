// One Paddle Lite model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "package.hpp"
#include "preprocess.hpp"

namespace paddle {
namespace lite_api {
class PaddlePredictor;
}
}  // namespace paddle

namespace ppmobilenet {

class Engine {
 public:
  // power: high, low, full, none, rand-high or rand-low: the cores that Paddle Lite binds its threads to.
  Engine(const Package& package, const Form& form, int threads, const std::string& power);
  ~Engine();

  // The output values for one preprocessed photo, class_num of them.
  std::vector<float> run(const Image& image);

  // Paddle Lite's own version, e.g. "v2.13-rc".
  std::string runtime_version() const;

 private:
  const Package& package_;
  std::shared_ptr<paddle::lite_api::PaddlePredictor> predictor_;
};

}  // namespace ppmobilenet
