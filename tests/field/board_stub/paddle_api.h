// A stand-in for Paddle Lite's light API with only the calls that the board program makes, so that the program can be
// built and run on any machine. Its "model" file is raw float32: 1024 of padding, then class_num rows of three
// weights; output i is the dot product of row i with the means of the input's three planes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace paddle {
namespace lite_api {

enum PowerMode {
  LITE_POWER_HIGH = 0,
  LITE_POWER_LOW = 1,
  LITE_POWER_FULL = 2,
  LITE_POWER_NO_BIND = 3,
  LITE_POWER_RAND_HIGH = 4,
  LITE_POWER_RAND_LOW = 5
};

using shape_t = std::vector<int64_t>;

class Tensor {
 public:
  explicit Tensor(std::vector<float>* values, shape_t* shape) : values_(values), shape_(shape) {}
  void Resize(const shape_t& shape) {
    *shape_ = shape;
    int64_t count = 1;
    for (int64_t extent : shape) count *= extent;
    values_->resize(count);
  }
  template <typename T>
  const T* data() const {
    return reinterpret_cast<const T*>(values_->data());
  }
  template <typename T>
  T* mutable_data() const {
    return reinterpret_cast<T*>(values_->data());
  }
  shape_t shape() const { return *shape_; }

 private:
  std::vector<float>* values_;
  shape_t* shape_;
};

class MobileConfig {
 public:
  void set_model_from_file(const std::string& path) { path_ = path; }
  void set_threads(int) {}
  void set_power_mode(PowerMode) {}
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class PaddlePredictor {
 public:
  explicit PaddlePredictor(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    // as the real library, which is built without exceptions, does with a model that it cannot read
    if (file.tellg() < 1024 || (file.tellg() - std::streamoff(1024)) % 12) std::abort();
    file.seekg(1024);
    float value;
    while (file.read(reinterpret_cast<char*>(&value), sizeof value)) weights_.push_back(value);
  }
  std::unique_ptr<Tensor> GetInput(int) { return std::make_unique<Tensor>(&input_, &input_shape_); }
  std::unique_ptr<const Tensor> GetOutput(int) { return std::make_unique<const Tensor>(&output_, &output_shape_); }
  void Run() {
    const size_t area = input_.size() / 3;
    double means[3] = {0, 0, 0};
    for (size_t i = 0; i < input_.size(); ++i) means[i / area] += input_[i] / static_cast<double>(area);
    output_.clear();
    for (size_t i = 0; i + 2 < weights_.size(); i += 3) {
      output_.push_back(weights_[i] * means[0] + weights_[i + 1] * means[1] + weights_[i + 2] * means[2]);
    }
    output_shape_ = {1, static_cast<int64_t>(output_.size())};
  }
  std::string GetVersion() const { return "v2.13-rc"; }

 private:
  std::vector<float> weights_, input_, output_;
  shape_t input_shape_, output_shape_;
};

template <typename ConfigT>
std::shared_ptr<PaddlePredictor> CreatePaddlePredictor(const ConfigT& config) {
  return std::make_shared<PaddlePredictor>(config.path());
}

}  // namespace lite_api
}  // namespace paddle
