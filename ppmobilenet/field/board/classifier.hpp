// A package, ready to answer: what a program of one's own includes (see example/example.cpp).
#pragma once

#include <memory>
#include <opencv2/core.hpp>
#include <string>
#include <vector>

#include "decision.hpp"
#include "engine.hpp"
#include "package.hpp"

namespace ppmobilenet {

// One thread at a time; for several threads one Classifier each. Everything throws Failure (package.hpp), which says
// what is wrong and what to do.
class Classifier {
 public:
  // package: the folder that `ppmobilenet export --to lite-armv8` wrote. form: one of its models, or empty for this
  // processor's. power: high, low, full, none, rand-high or rand-low.
  explicit Classifier(const std::string& package, const std::string& form = "", int threads = 1,
                      const std::string& power = "none");

  // A photo file.
  Answer operator()(const std::string& file, int topk = 0);

  // Pixels as OpenCV gives them: 8 bit, BGR; one grey channel and BGRA are taken, too. They are not changed.
  Answer operator()(const cv::Mat& pixels, int topk = 0);

  // The probability of every class.
  std::vector<float> scores(const std::string& file);
  std::vector<float> scores(const cv::Mat& pixels);

  const Package& package() const { return package_; }
  const Form& form() const { return form_; }
  Engine& engine() { return engine_; }

 private:
  const Package package_;
  const Form form_;
  Engine engine_;
};

}  // namespace ppmobilenet
