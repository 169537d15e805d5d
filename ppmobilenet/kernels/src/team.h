// The threads that a run is computed on. Kept between calls; a thread that waits spins for some microseconds and then
// sleeps, so that data workers and other processes on the same cores are not kept out (OpenMP's waiting cannot be set
// from inside a process in which Paddle has loaded it).
#pragma once

// Calls job(context, t) on each of `threads` threads, t = 0 on the caller's, and waits for all of them.
void team_run(int threads, void (*job)(void* context, int t), void* context);

// Inside a job: waits until all threads of the job are here.
void team_barrier();
