// What a network's output becomes: probabilities, and whether the best of them is enough for an answer
// (ppmobilenet/field/decision.py is the same).
#pragma once

#include <string>
#include <vector>

#include "package.hpp"

namespace ppmobilenet {

struct Ranked {
  int class_id = 0;
  float score = 0;  // its probability
  std::string label;
};

struct Answer {
  std::vector<Ranked> best;  // best first; of several labels those that are there, in their order: perhaps none
  bool unsure = false;       // the best is below what the package asks of an answer; false where it asks nothing
};

// The network's output as probabilities: a softmax where it gives logits (a sigmoid for several labels a photo), and
// the package's temperature.
std::vector<float> probabilities(const Package& package, std::vector<float> output);

// The numbers of the `count` highest scores, best first; equal ones in the order of the classes.
std::vector<int> best_first(const std::vector<float>& scores, int count);

// The classes that probabilities come to: the labels that are there, or the best class.
std::vector<int> chosen(const Package& package, const std::vector<float>& scores);

// The answer that probabilities are; topk 0: as many classes as the package says.
Answer decide(const Package& package, const std::vector<float>& scores, int topk = 0);

}  // namespace ppmobilenet
