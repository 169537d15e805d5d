#include "classifier.hpp"

#include "preprocess.hpp"

namespace ppmobilenet {

Classifier::Classifier(const std::string& package, const std::string& form, int threads, const std::string& power)
    : package_(open_package(package)), form_(choose_form(package_, form)), engine_(package_, form_, threads, power) {}

std::vector<float> Classifier::scores(const std::string& file) {
  return probabilities(package_, engine_.run(preprocess(package_, file)));
}

std::vector<float> Classifier::scores(const cv::Mat& pixels) {
  return probabilities(package_, engine_.run(preprocess(package_, pixels)));
}

Answer Classifier::operator()(const std::string& file, int topk) { return decide(package_, scores(file), topk); }

Answer Classifier::operator()(const cv::Mat& pixels, int topk) { return decide(package_, scores(pixels), topk); }

}  // namespace ppmobilenet
