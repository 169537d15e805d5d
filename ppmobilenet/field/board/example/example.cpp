// A program of one's own: pixels from wherever, a name for them. CMakeLists.txt builds it beside classify.
//   example PACKAGE photo.jpg

#include <cstdio>
#include <opencv2/imgcodecs.hpp>

#include "classifier.hpp"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: example PACKAGE photo.jpg\n");
    return 2;
  }
  try {
    ppmobilenet::Classifier classify(argv[1]);  // once: it loads the model
    const cv::Mat pixels = cv::imread(argv[2]);  // or a camera's frame, a part of a larger picture, ...
    const ppmobilenet::Answer answer = classify(pixels);
    // one answer, best first; of a package of several labels those that are there
    for (const ppmobilenet::Ranked& found : answer.best) {
      std::printf("%s %.4f\n", answer.unsure ? "unsure" : found.label.c_str(), found.score);
      if (!classify.package().several) break;
    }
    return 0;
  } catch (const ppmobilenet::Failure& failure) {
    std::fprintf(stderr, "error: %s\n", failure.what());
    return failure.code;
  }
}
