#include "guard.hpp"

#include <csignal>
#include <unistd.h>

namespace ppmobilenet {
namespace {

constexpr int kSignals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr const char kNoInstruction[] =
    "error: this processor lacks an instruction that the model needs (fp16 needs ARMv8.2): choose another --form\n";

struct sigaction saved[sizeof kSignals / sizeof kSignals[0]];
std::string words;  // made before anything can go wrong: a signal's handler may not allocate
int exit_code = 0;

extern "C" void end_in_our_words(int signal) {
  ssize_t written;
  if (signal == SIGILL) {
    written = write(STDERR_FILENO, kNoInstruction, sizeof kNoInstruction - 1);
    exit_code = kUsage;
  } else {
    written = write(STDERR_FILENO, words.data(), words.size());
  }
  static_cast<void>(written);
  _exit(exit_code);
}

}  // namespace

Guard::Guard(Exit code, const std::string& message) {
  words = "error: " + message + "\n";
  exit_code = code;
  struct sigaction action = {};
  action.sa_handler = end_in_our_words;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < sizeof kSignals / sizeof kSignals[0]; ++i) sigaction(kSignals[i], &action, &saved[i]);
}

Guard::~Guard() {
  for (size_t i = 0; i < sizeof kSignals / sizeof kSignals[0]; ++i) sigaction(kSignals[i], &saved[i], nullptr);
}

}  // namespace ppmobilenet
