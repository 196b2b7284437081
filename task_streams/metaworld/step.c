/* A thread's steps without Python in between: what `Arrays._steps` in task_groups.py does, call by call.

   No header of MuJoCo is needed: functions and arrays come as addresses. Shape letters: N environments, K pieces of an observation. */

#include <stdatomic.h>
#include <string.h>

typedef void (*advance)(void *model, void *data);
typedef void (*put)(void *model, void *data, const double *state, unsigned int what);
typedef void (*take)(void *model, void *data, double *state, unsigned int what);

struct simulator { /* of one thread */
  advance step, settle; /* mj_step; mj_forward, or mj_kinematics where only positions are wanted */
  put set_state;        /* mj_setState */
  take get_state;       /* mj_getState */
  void *model, *data;
  double *body_pos, *site_pos; /* in the model */
  double *hand, *control;      /* in the data: where the hand is drawn to (3), and the fingers' motors (2) */
  const double *const *sources; /* (K): what is copied after a step, each `lengths` (K) numbers */
  const long *lengths;
  long body_bytes, site_bytes, substeps, pieces, width, size;
  unsigned int what; /* the state is made of */
};

/* Environments as `next` hands them out, each to one thread, below count, where active (N), if there is one, is not 0. state (N, size);
   placed (N): whose positions the model must have, beside body_pos and site_pos (N) of these; mocap (N, 3), grip (N, 2): what goes to
   hand and control; out (N, width): what is seen afterwards. */
void clbench_step(const struct simulator *one, atomic_long *next, long count, const unsigned char *active, double *state, const long *placed,
                  double *const *body_pos, double *const *site_pos, const double *mocap, const double *grip, double *out) {
  long there = -1;
  for (long n = atomic_fetch_add(next, 1); n < count; n = atomic_fetch_add(next, 1)) {
    if (active && !active[n]) continue;
    if (placed[n] != there) {
      memcpy(one->body_pos, body_pos[n], (size_t)one->body_bytes);
      memcpy(one->site_pos, site_pos[n], (size_t)one->site_bytes);
      there = placed[n];
    }
    one->set_state(one->model, one->data, state + n * one->size, one->what);
    memcpy(one->hand, mocap + 3 * n, 3 * sizeof(double));
    memcpy(one->control, grip + 2 * n, 2 * sizeof(double));
    for (long k = 0; k < one->substeps; k++) one->step(one->model, one->data);
    one->settle(one->model, one->data);
    one->get_state(one->model, one->data, state + n * one->size, one->what);
    double *to = out + n * one->width;
    for (long k = 0; k < one->pieces; k++) {
      memcpy(to, one->sources[k], (size_t)one->lengths[k] * sizeof(double));
      to += one->lengths[k];
    }
  }
}
