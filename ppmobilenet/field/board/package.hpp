// Reads package.json as ppmobilenet's export writes it (see ppmobilenet/field/package.py for the format).
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace ppmobilenet {

// Exit codes, the same as the Python program's.
enum Exit { kDone = 0, kUsage = 2, kData = 3, kDamaged = 4, kNumerics = 5 };

// What went wrong, said for the person in front of the board, and the exit code it leads to.
struct Failure : std::runtime_error {
  Failure(Exit code, const std::string& what) : std::runtime_error(what), code(code) {}
  Exit code;
};

struct Op {
  std::string name;  // DecodeImage, ResizeImage, CropImage, NormalizeImage, ToCHWImage
  bool to_rgb = true;
  int resize_short = 0;        // ResizeImage: this, or width and height
  int width = 0, height = 0;   // ResizeImage, CropImage
  std::string interpolation = "bilinear";
  float scale = 1.0f;  // NormalizeImage: (pixel * scale - mean) / std
  std::vector<float> mean, std;
  std::string order = "hwc";
};

struct Form {
  std::string name, engine, precision, target, opt_version;
  std::vector<std::string> files;
};

struct StoredFile {
  int64_t bytes = 0;
  std::string sha256;
};

struct Package {
  std::string folder, name;
  std::vector<std::string> labels;
  int class_num = 0, topk = 5;
  std::string input_dtype, input_layout;
  std::vector<int64_t> input_shape;  // [-1, 3, H, W] or [-1, H, W, 3]
  std::string output_kind;           // probabilities or logits
  std::vector<Op> ops;
  std::vector<Form> forms;
  std::map<std::string, StoredFile> files;    // path -> what it was when the package was written
  std::map<std::string, std::string> golden;  // image, decode, ..., output, output_int8 -> file
  std::string lite_runtime;                   // the runtime version that the .nb files need
  double bound_logits = 1e-4, bound_probabilities = 1e-5, bound_int8 = 0.05;

  bool several = false;           // a photo has several labels, each with a probability of its own
  std::vector<float> thresholds;  // of each; of one label a photo, if not empty: of class 1 of two
  double temperature = 1;   // of the decision
  bool asks_sure = false;   // whether there is a threshold
  double unsure_below = 0;  // it: a best answer below is unsure
  bool recorded_answer = false;  // whether golden holds what the decision made of the recorded output, and that
  std::vector<int> answer_classes;     // one, or the labels that the photo has
  std::vector<double> answer_scores;
  bool answer_unsure = false;

  // Where one of the package's files lies; throws Failure(kDamaged) unless its size and sha256 are as exported.
  std::string checked(const std::string& file) const;
};

// Opens the folder; throws Failure(kDamaged) with the key that is missing or wrong, or when package.json was changed.
Package open_package(const std::string& folder);

// The Lite form to run on this processor: the one named, or the first of this build's target, fp32 before others.
const Form& choose_form(const Package& package, const std::string& wanted);

// Raw little-endian values of one of the package's files; throws Failure(kDamaged) when it is not as exported or its
// size is not `count` values.
template <typename T>
std::vector<T> read_values(const Package& package, const std::string& file, size_t count);

}  // namespace ppmobilenet
