/* The steps of a thread's environments, without Python in between: what `_Arrays.simulate` in vector_env.py does, call by call.

   No header of MuJoCo is needed: functions and arrays come as addresses. Shape letters: N environments, K pieces of an observation. */

#include <string.h>

typedef void (*advance)(void *model, void *data);

struct share {
  advance step, settle;         /* mj_step; mj_forward, or mj_kinematics where only positions are wanted */
  void *model;                  /* of this thread */
  double *body_pos, *site_pos;  /* in it */
  long body_bytes, site_bytes;
  long substeps, pieces, width;
};

/* Environments first, first + stride, ... below count, where active (N), if there is one, is not 0. data (N); placed (N): whose positions the model must have, beside body_pos and
   site_pos (N) of these; hand and control (N): addresses in the simulator's data; mocap (N, 3), grip (N, 2): what goes there;
   sources (N, K), lengths (K): what is copied to out (N, width) afterwards. */
void clbench_step(const struct share *share, long first, long stride, long count, const unsigned char *active, void *const *data,
                  const long *placed, double *const *body_pos, double *const *site_pos, double *const *hand, double *const *control, const double *mocap,
                  const double *grip, const double *const *sources, const long *lengths, double *out) {
  long there = -1;
  for (long n = first; n < count; n += stride) {
    if (active && !active[n]) continue;
    if (placed[n] != there) {
      memcpy(share->body_pos, body_pos[n], (size_t)share->body_bytes);
      memcpy(share->site_pos, site_pos[n], (size_t)share->site_bytes);
      there = placed[n];
    }
    memcpy(hand[n], mocap + 3 * n, 3 * sizeof(double));
    memcpy(control[n], grip + 2 * n, 2 * sizeof(double));
    for (long k = 0; k < share->substeps; k++) share->step(share->model, data[n]);
    share->settle(share->model, data[n]);
    double *to = out + n * share->width;
    for (long k = 0; k < share->pieces; k++) {
      memcpy(to, sources[n * share->pieces + k], (size_t)lengths[k] * sizeof(double));
      to += lengths[k];
    }
  }
}
