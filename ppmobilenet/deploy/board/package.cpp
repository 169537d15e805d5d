#include "package.hpp"

#include <fstream>
#include <opencv2/core.hpp>

namespace ppmobilenet {
namespace {

constexpr int kFormatVersion = 1;

// One value of package.json; a missing one is an error that names the key.
cv::FileNode need(const cv::FileNode& parent, const std::string& key, const std::string& where) {
  cv::FileNode node = parent[key];
  if (node.empty() && !node.isSeq()) {
    throw Failure(kDamaged, where + " has no \"" + key + "\": export the model again");
  }
  return node;
}

std::vector<float> floats(const cv::FileNode& node) {
  std::vector<float> values;
  for (const auto& entry : node) values.push_back(static_cast<float>(static_cast<double>(entry)));
  return values;
}

Op read_op(const cv::FileNode& node, const std::string& where) {
  Op op;
  op.name = need(node, "op", where).string();
  if (op.name == "DecodeImage") {
    op.to_rgb = static_cast<int>(need(node, "to_rgb", where)) != 0;
  } else if (op.name == "ResizeImage" || op.name == "CropImage") {
    if (!node["resize_short"].empty()) {
      op.resize_short = static_cast<int>(node["resize_short"]);
    } else {
      cv::FileNode size = need(node, "size", where);
      op.width = static_cast<int>(size[0]);
      op.height = static_cast<int>(size[1]);
    }
    if (op.name == "ResizeImage") {
      op.interpolation = need(node, "interpolation", where).string();
      const std::string backend = need(node, "backend", where).string();
      if (backend != "cv2") {
        throw Failure(kUsage, where + " resizes with the backend \"" + backend +
                                  "\"; this program has cv2's only: train and export with backend: cv2");
      }
    }
  } else if (op.name == "NormalizeImage") {
    op.scale = static_cast<float>(static_cast<double>(need(node, "scale", where)));
    op.mean = floats(need(node, "mean", where));
    op.std = floats(need(node, "std", where));
    op.order = need(node, "order", where).string();
    if (op.mean.size() != 3 || op.std.size() != 3) {
      throw Failure(kDamaged, where + ": mean and std must hold three numbers");
    }
  } else if (op.name != "ToCHWImage") {
    throw Failure(kUsage, where + " names the operator \"" + op.name + "\", which this program does not know");
  }
  return op;
}

}  // namespace

Package open_package(const std::string& folder) {
  const std::string file = folder + "/package.json";
  if (!std::ifstream(file)) {
    throw Failure(kUsage, file + " is not there: give the folder that `ppmobilenet export` wrote");
  }
  cv::FileStorage storage;
  try {
    storage.open(file, cv::FileStorage::READ | cv::FileStorage::FORMAT_JSON, "UTF-8");
  } catch (const cv::Exception& error) {
    throw Failure(kDamaged, file + " is not readable JSON (" + error.err + "): copy the package again, whole");
  }
  if (!storage.isOpened()) throw Failure(kDamaged, file + " cannot be opened");
  const cv::FileNode root = storage.root();
  if (root["format"].empty() || root["format"].string() != "ppmobilenet-package") {
    throw Failure(kDamaged, file + " is not a ppmobilenet package: \"format\" is another");
  }
  const int version = static_cast<int>(need(root, "format_version", file));
  if (version > kFormatVersion) {
    throw Failure(kUsage, file + " has format version " + std::to_string(version) + ", this program reads up to " +
                              std::to_string(kFormatVersion) + ": build a newer program, or export again");
  }

  Package package;
  package.folder = folder;
  package.name = need(root, "name", file).string();
  package.class_num = static_cast<int>(need(root, "class_num", file));
  package.topk = static_cast<int>(need(root, "topk", file));
  for (const auto& label : need(root, "labels", file)) package.labels.push_back(label.string());
  const cv::FileNode input = need(root, "input", file);
  package.input_dtype = need(input, "dtype", file + " input").string();
  package.input_layout = need(input, "layout", file + " input").string();
  for (const auto& extent : need(input, "shape", file + " input")) {
    package.input_shape.push_back(static_cast<int>(extent));
  }
  if (package.input_shape.size() != 4) throw Failure(kDamaged, file + ": input.shape must hold four numbers");
  package.output_kind = need(need(root, "output", file), "kind", file + " output").string();
  for (const auto& op : need(need(root, "preprocess", file), "ops", file + " preprocess")) {
    package.ops.push_back(read_op(op, file + " preprocess.ops"));
  }
  for (const auto& node : need(root, "forms", file)) {
    Form form;
    form.name = need(node, "name", file + " forms").string();
    form.engine = need(node, "engine", file + " forms").string();
    form.precision = need(node, "precision", file + " forms").string();
    if (!node["target"].empty()) form.target = node["target"].string();
    if (!node["opt_version"].empty()) form.opt_version = node["opt_version"].string();
    for (const auto& path : need(node, "files", file + " forms")) form.files.push_back(path.string());
    package.forms.push_back(form);
  }
  const cv::FileNode golden = root["golden"];
  for (const std::string key : {"image", "decode", "resize", "crop", "tensor", "logits", "output"}) {
    if (!golden[key].empty()) package.golden[key] = golden[key].string();
  }
  if (!root["versions"]["lite_runtime"].empty()) package.lite_runtime = root["versions"]["lite_runtime"].string();
  if (!root["bounds"]["logits"].empty()) package.bound_logits = root["bounds"]["logits"];
  if (!root["bounds"]["probabilities"].empty()) package.bound_probabilities = root["bounds"]["probabilities"];
  return package;
}

const Form& choose_form(const Package& package, const std::string& wanted) {
#if defined(__aarch64__)
  const std::string target = "armv8";
#elif defined(__arm__)
  const std::string target = "armv7";
#else
  const std::string target = "x86";
#endif
  std::string there;
  const Form* first = nullptr;
  for (const Form& form : package.forms) {
    if (form.engine != "lite") continue;
    there += (there.empty() ? "" : ", ") + form.name;
    if (!wanted.empty() ? form.name == wanted : form.target == target) {
      if (!first || (form.precision == "fp32" && first->precision != "fp32")) first = &form;
    }
  }
  if (first && first->target != target) {
    throw Failure(kUsage, first->name + " is for " + first->target + ", this processor is " + target);
  }
  if (first) return *first;
  throw Failure(kUsage, "the package has no Paddle Lite model " + (wanted.empty() ? "for " + target : wanted) +
                            (there.empty() ? "" : " (there are: " + there + ")") + ": export with --to lite-" + target);
}

template <typename T>
std::vector<T> read_values(const std::string& path, size_t count) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Failure(kDamaged, path + " is missing: copy the package again, whole");
  const size_t bytes = static_cast<size_t>(file.tellg());
  if (bytes != count * sizeof(T)) {
    throw Failure(kDamaged, path + " has " + std::to_string(bytes) + " bytes instead of " +
                                std::to_string(count * sizeof(T)) + ": copy the package again, whole");
  }
  std::vector<T> values(count);
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(bytes));
  return values;
}
template std::vector<float> read_values<float>(const std::string&, size_t);
template std::vector<uint8_t> read_values<uint8_t>(const std::string&, size_t);

}  // namespace ppmobilenet
