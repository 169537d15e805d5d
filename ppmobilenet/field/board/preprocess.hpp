// The package's preprocessing, operator by operator, as ppmobilenet/photos/operators.py computes it.
#pragma once

#include <opencv2/core.hpp>
#include <string>
#include <vector>

#include "package.hpp"

namespace ppmobilenet {

// What a photo is on its way to the network: pixels first (uint8, then float32, HWC), then CHW planes.
struct Image {
  cv::Mat pixels;             // CV_8UC3 or CV_32FC3
  std::vector<float> planes;  // CHW, once ToCHWImage was applied to floats
  std::vector<uint8_t> byte_planes;
  bool chw = false;
};

// Applies one operator; `file` names the photo in messages. DecodeImage reads `file`, with its EXIF rotation applied.
void apply(const Op& op, const std::string& file, Image* image);

// All operators: photo file -> the values of the input tensor.
Image preprocess(const Package& package, const std::string& file);

// The same for pixels that are decoded already: 8 bit, BGR as OpenCV gives them, or one grey channel, or BGRA.
Image preprocess(const Package& package, const cv::Mat& pixels);

// The last step of preprocess: pixels after all operators -> values in the input's layout, checked against its shape.
Image finish(const Package& package, const std::string& file, Image image);

}  // namespace ppmobilenet
