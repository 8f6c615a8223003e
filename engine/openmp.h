/* openmp.h - the two functions of OpenMP's that are used, as its standard declares them. libgomp,
 * which oneDNN computes with, defines them. Not <omp.h>: clang has none of its own. */
#ifndef ENGINE_OPENMP_H
#define ENGINE_OPENMP_H

/* Threads of the calling thread's next parallel regions. libgomp ends the process if it has no
 * memory for the first such call of a thread: see pool.c. */
void omp_set_num_threads(int threads);
int omp_get_max_threads(void);

#endif
