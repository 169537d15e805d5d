#include "decision.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numeric>

namespace ppmobilenet {

std::vector<float> probabilities(const Package& package, std::vector<float> output) {
  const float temperature = static_cast<float>(package.temperature);
  if (package.output_kind != "logits") {
    if (package.temperature == 1) return output;
    for (float& value : output) value = std::log(std::max(value, FLT_MIN));
  }
  if (package.temperature != 1) {
    for (float& value : output) value /= temperature;
  }
  if (package.several) {
    for (float& value : output) value = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(value))));
    return output;
  }
  const float top = *std::max_element(output.begin(), output.end());
  double sum = 0;
  for (float& value : output) sum += value = std::exp(value - top);
  for (float& value : output) value = static_cast<float>(value / sum);
  return output;
}

std::vector<int> best_first(const std::vector<float>& scores, int count) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  count = std::min<int>(count, static_cast<int>(order.size()));
  // equal scores keep the order of the classes, as the Python program does
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  order.resize(count);
  return order;
}

std::vector<int> chosen(const Package& package, const std::vector<float>& scores) {
  if (!package.several) {
    return package.thresholds.empty() ? best_first(scores, 1) : std::vector<int>{scores[1] >= package.thresholds[0]};
  }
  std::vector<int> there;
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] >= package.thresholds[i]) there.push_back(static_cast<int>(i));
  }
  return there;
}

Answer decide(const Package& package, const std::vector<float>& scores, int topk) {
  Answer answer;
  const bool bounded = package.several || !package.thresholds.empty();
  for (const int i : bounded ? chosen(package, scores) : best_first(scores, topk ? topk : package.topk)) {
    const bool named = i < static_cast<int>(package.labels.size());
    answer.best.push_back({i, scores[i], named ? package.labels[i] : ""});
  }
  answer.unsure = package.asks_sure && *std::max_element(scores.begin(), scores.end()) < package.unsure_below;
  return answer;
}

}  // namespace ppmobilenet
