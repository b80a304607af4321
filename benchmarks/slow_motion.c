/* Slow motion: every clock of the processes that load this goes at SLOW_MOTION of its rate, and they wait so much
 * longer, so that a small machine does in four seconds what takes one. Clocks are scaled from a fixed zero: all
 * processes, whenever they start, agree. See slow_motion.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define REAL(name) ({ static __typeof__(&name) found; if (!found) found = dlsym(RTLD_NEXT, #name); found; })
/* of two versions of a symbol dlsym finds the old one */
#define NEW(name) ({ static __typeof__(&name) found; if (!found) found = dlvsym(RTLD_NEXT, #name, "GLIBC_2.3.2"); found; })

static double rate(void) {
    static double known;
    if (known == 0) {
        const char *said = getenv("SLOW_MOTION");
        known = said ? atof(said) : 1.0;
    }
    return known;
}

static long long nanoseconds(const struct timespec *t) { return t->tv_sec * SECOND + t->tv_nsec; }

static struct timespec spec(long long ns) {
    return (struct timespec){ns < 0 ? 0 : ns / SECOND, ns < 0 ? 0 : ns % SECOND};
}

/* The wall clock is scaled from the beginning of 2026, clocks that count from the start of the machine from there. */
static long long zero(int wall) { return wall ? 1767225600LL * SECOND : 0; }
static long long slowed(long long ns, int wall) { return zero(wall) + (long long)((ns - zero(wall)) * rate()); }
static long long true_of(long long ns, int wall) { return zero(wall) + (long long)((ns - zero(wall)) / rate()); }
static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }
static int is_scaled(clockid_t clock) {
    return is_wall(clock) || clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_RAW ||
           clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_BOOTTIME;
}

static struct timespec longer(const struct timespec *t) { return spec((long long)(nanoseconds(t) / rate())); }
static struct timespec deadline(const struct timespec *t, int wall) { return spec(true_of(nanoseconds(t), wall)); }
/* whose clock is not said: no machine has been on for thirty years */
static struct timespec some_deadline(const struct timespec *t) { return deadline(t, t->tv_sec > SECOND); }

int clock_gettime(clockid_t clock, struct timespec *t) {
    int failed = REAL(clock_gettime)(clock, t);
    if (!failed && is_scaled(clock)) *t = spec(slowed(nanoseconds(t), is_wall(clock)));
    return failed;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted, struct timespec *left) {
    struct timespec real = flags & TIMER_ABSTIME ? deadline(wanted, is_wall(clock)) : longer(wanted);
    int failed = REAL(clock_nanosleep)(clock, flags, &real, left);
    if (failed == EINTR && left && !(flags & TIMER_ABSTIME)) *left = spec((long long)(nanoseconds(left) * rate()));
    return failed;
}

int nanosleep(const struct timespec *wanted, struct timespec *left) {
    int failed = clock_nanosleep(CLOCK_MONOTONIC, 0, wanted, left);
    if (failed) errno = failed;
    return failed ? -1 : 0;
}

int usleep(useconds_t us) {
    struct timespec wanted = spec(us * 1000LL);
    return nanosleep(&wanted, NULL);
}

int select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *t) {
    if (!t) return REAL(select)(n, r, w, e, t);
    long long us = (long long)((t->tv_sec * 1000000LL + t->tv_usec) / rate());
    struct timeval real = {us / 1000000, us % 1000000};
    return REAL(select)(n, r, w, e, &real);
}

int pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *t, const sigset_t *s) {
    struct timespec real;
    if (t) real = longer(t);
    return REAL(pselect)(n, r, w, e, t ? &real : NULL, s);
}

static int milliseconds(int ms) { return ms > 0 ? (int)(ms / rate()) : ms; }
int poll(struct pollfd *f, nfds_t n, int ms) { return REAL(poll)(f, n, milliseconds(ms)); }
int epoll_wait(int f, struct epoll_event *e, int n, int ms) { return REAL(epoll_wait)(f, e, n, milliseconds(ms)); }
int epoll_pwait(int f, struct epoll_event *e, int n, int ms, const sigset_t *s) {
    return REAL(epoll_pwait)(f, e, n, milliseconds(ms), s);
}
int ppoll(struct pollfd *f, nfds_t n, const struct timespec *t, const sigset_t *s) {
    struct timespec real;
    if (t) real = longer(t);
    return REAL(ppoll)(f, n, t ? &real : NULL, s);
}

int sem_timedwait(sem_t *s, const struct timespec *t) {
    struct timespec real = deadline(t, 1);
    return REAL(sem_timedwait)(s, &real);
}
int sem_clockwait(sem_t *s, clockid_t clock, const struct timespec *t) {
    struct timespec real = deadline(t, is_wall(clock));
    return REAL(sem_clockwait)(s, clock, &real);
}
int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *t) {
    struct timespec real = some_deadline(t);
    return NEW(pthread_cond_timedwait)(c, m, &real);
}
int pthread_cond_clockwait(pthread_cond_t *c, pthread_mutex_t *m, clockid_t clock, const struct timespec *t) {
    struct timespec real = deadline(t, is_wall(clock));
    return REAL(pthread_cond_clockwait)(c, m, clock, &real);
}
int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *t) {
    struct timespec real = deadline(t, 1);
    return REAL(pthread_mutex_timedlock)(m, &real);
}

int timerfd_settime(int f, int flags, const struct itimerspec *t, struct itimerspec *before) {
    int set = t->it_value.tv_sec || t->it_value.tv_nsec;
    struct itimerspec real = {longer(&t->it_interval), t->it_value};
    if (set) real.it_value = flags & TFD_TIMER_ABSTIME ? some_deadline(&t->it_value) : longer(&t->it_value);
    return REAL(timerfd_settime)(f, flags, &real, before);
}

/* GLib waits by it */
long syscall(long number, ...) {
    va_list given;
    va_start(given, number);
    long a = va_arg(given, long), b = va_arg(given, long), c = va_arg(given, long);
    long d = va_arg(given, long), e = va_arg(given, long), f = va_arg(given, long);
    va_end(given);
    struct timespec real;
    int command = (int)b & FUTEX_CMD_MASK;
    if (number == SYS_futex && d && (command == FUTEX_WAIT || command == FUTEX_WAIT_BITSET)) {
        const struct timespec *t = (const struct timespec *)d;
        real = command == FUTEX_WAIT ? longer(t) : deadline(t, (b & FUTEX_CLOCK_REALTIME) != 0);
        d = (long)&real;
    }
    return REAL(syscall)(number, a, b, c, d, e, f);
}
