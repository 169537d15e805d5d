#include "preprocess.hpp"

#include <cmath>
#include <fstream>
#include <map>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

namespace ppmobilenet {
namespace {

void decode(const Op& op, const std::string& file, Image* image) {
  if (!std::ifstream(file)) throw Failure(kData, file + " cannot be opened");
  cv::Mat pixels;
  try {
    pixels = cv::imread(file, cv::IMREAD_COLOR);  // 8 bit, three channels, EXIF rotation applied
  } catch (const cv::Exception& error) {
    throw Failure(kData, file + " is not a readable photo (" + error.err + ")");
  }
  if (pixels.empty()) throw Failure(kData, file + " is not a readable photo");
  if (op.to_rgb) cv::cvtColor(pixels, pixels, cv::COLOR_BGR2RGB);
  image->pixels = pixels;
}

void resize(const Op& op, Image* image) {
  static const std::map<std::string, int> kInterpolations = {{"nearest", cv::INTER_NEAREST},
                                                             {"bilinear", cv::INTER_LINEAR},
                                                             {"area", cv::INTER_AREA},
                                                             {"bicubic", cv::INTER_CUBIC},
                                                             {"lanczos", cv::INTER_LANCZOS4}};
  const auto found = kInterpolations.find(op.interpolation);
  if (found == kInterpolations.end()) {
    throw Failure(kUsage, "ResizeImage: unknown interpolation \"" + op.interpolation + "\"");
  }
  int width = op.width, height = op.height;
  if (op.resize_short > 0) {
    const double percent =
        static_cast<double>(op.resize_short) / std::min(image->pixels.cols, image->pixels.rows);
    width = static_cast<int>(std::nearbyint(image->pixels.cols * percent));
    height = static_cast<int>(std::nearbyint(image->pixels.rows * percent));
  }
  cv::Mat resized;
  cv::resize(image->pixels, resized, cv::Size(width, height), 0, 0, found->second);
  image->pixels = resized;
}

void crop(const Op& op, const std::string& file, Image* image) {
  const int left = (image->pixels.cols - op.width) / 2, top = (image->pixels.rows - op.height) / 2;
  if (left < 0 || top < 0) {
    throw Failure(kData, file + " is " + std::to_string(image->pixels.cols) + "x" +
                             std::to_string(image->pixels.rows) + " before the crop to " +
                             std::to_string(op.width) + "x" + std::to_string(op.height));
  }
  image->pixels = image->pixels(cv::Rect(left, top, op.width, op.height)).clone();
}

void normalize(const Op& op, Image* image) {
  if (op.order == "chw") throw Failure(kUsage, "NormalizeImage with order chw is not supported: use hwc");
  if (image->pixels.type() != CV_8UC3) throw Failure(kDamaged, "the package normalises what is normalised already");
  cv::Mat out(image->pixels.size(), CV_32FC3);
  for (int row = 0; row < out.rows; ++row) {
    const uint8_t* from = image->pixels.ptr<uint8_t>(row);
    float* to = out.ptr<float>(row);
    for (int i = 0; i < out.cols * 3; ++i) {
      const int channel = i % 3;
      to[i] = (static_cast<float>(from[i]) * op.scale - op.mean[channel]) / op.std[channel];
    }
  }
  image->pixels = out;
}

template <typename T>
std::vector<T> to_chw(const cv::Mat& pixels) {
  const size_t area = static_cast<size_t>(pixels.rows) * pixels.cols;
  std::vector<T> planes(3 * area);
  for (int row = 0; row < pixels.rows; ++row) {
    const T* from = pixels.ptr<T>(row);
    for (int column = 0; column < pixels.cols; ++column) {
      for (size_t channel = 0; channel < 3; ++channel) {
        planes[channel * area + static_cast<size_t>(row) * pixels.cols + column] = from[3 * column + channel];
      }
    }
  }
  return planes;
}

// HWC values in one piece (rows of a cv::Mat may be padded)
template <typename T>
std::vector<T> flat(const cv::Mat& pixels) {
  std::vector<T> values;
  values.reserve(pixels.total() * 3);
  for (int row = 0; row < pixels.rows; ++row) {
    const T* from = pixels.ptr<T>(row);
    values.insert(values.end(), from, from + pixels.cols * 3);
  }
  return values;
}

}  // namespace

void apply(const Op& op, const std::string& file, Image* image) {
  if (op.name == "DecodeImage") return decode(op, file, image);
  if (image->pixels.empty()) throw Failure(kDamaged, "the package's first operator must be DecodeImage");
  if (op.name == "ResizeImage") return resize(op, image);
  if (op.name == "CropImage") return crop(op, file, image);
  if (op.name == "NormalizeImage") return normalize(op, image);
  image->chw = true;  // ToCHWImage
}

Image preprocess(const Package& package, const std::string& file) {
  Image image;
  for (const Op& op : package.ops) apply(op, file, &image);
  return finish(package, file, image);
}

Image preprocess(const Package& package, const cv::Mat& pixels) {
  const std::string name = "the picture";
  if (pixels.empty() || pixels.depth() != CV_8U) throw Failure(kData, name + " is empty, or not of 8 bits a channel");
  Image image;
  for (const Op& op : package.ops) {
    if (op.name != "DecodeImage") {
      apply(op, name, &image);
      continue;
    }
    static const std::map<int, std::pair<int, int>> kTo = {{1, {cv::COLOR_GRAY2BGR, cv::COLOR_GRAY2RGB}},
                                                           {3, {-1, cv::COLOR_BGR2RGB}},
                                                           {4, {cv::COLOR_BGRA2BGR, cv::COLOR_BGRA2RGB}}};
    const auto found = kTo.find(pixels.channels());
    if (found == kTo.end()) throw Failure(kData, name + " has " + std::to_string(pixels.channels()) + " channels");
    const int code = op.to_rgb ? found->second.second : found->second.first;
    if (code < 0) {
      image.pixels = pixels;  // no operator writes into what it is given
    } else {
      cv::cvtColor(pixels, image.pixels, code);
    }
  }
  return finish(package, name, image);
}

Image finish(const Package& package, const std::string& file, Image image) {
  const bool nchw = package.input_layout == "NCHW";
  const int64_t height = package.input_shape[nchw ? 2 : 1], width = package.input_shape[nchw ? 3 : 2];
  if (image.chw != nchw || image.pixels.rows != height || image.pixels.cols != width) {
    throw Failure(kData, file + " became " + std::to_string(image.pixels.cols) + "x" +
                             std::to_string(image.pixels.rows) + ", the network takes " + std::to_string(width) + "x" +
                             std::to_string(height));
  }
  if (image.pixels.depth() == CV_32F) {
    image.planes = nchw ? to_chw<float>(image.pixels) : flat<float>(image.pixels);
  } else {
    image.byte_planes = nchw ? to_chw<uint8_t>(image.pixels) : flat<uint8_t>(image.pixels);
  }
  if ((package.input_dtype == "float32") != !image.planes.empty()) {
    throw Failure(kDamaged, "the package's preprocessing does not give its input's type, " + package.input_dtype);
  }
  return image;
}

}  // namespace ppmobilenet
