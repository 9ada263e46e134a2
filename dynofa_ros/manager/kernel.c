/* The inner loops of dynofa_ros/manager/allocator.py, for robots that have better to do than NumPy.
 *
 * The same arithmetic in the same order as there, bit for bit: compile without contraction of a * b + c
 * (-ffp-contract=off) and without -ffast-math. Rows are the clock levels of all processors, one after the
 * other; ends[k] is the row after the last one of processor k. Subsets of applications are bit masks.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define MOST_APPS 64
#define MOST_FREE 8
#define MOST_PROCESSORS 8
#define MOST_ROWS 256
#define SUBSETS (1 << MOST_FREE)

/* VERSION of kernel.py: changes with the structures and functions below. */
int dynofa_kernel_version(void) { return 1; }

/* class Grid of grid.py */
typedef struct {
    int apps, levels, rows, processors;
    const int *ends;
    const double *time_ms;               /* applications x demand levels x rows */
    const double *slowdown, *margin;     /* applications x rows */
    const double *load_per_ms, *budget_ms;
    const double *contention;            /* rows */
    const double *base_w, *slope_w;      /* rows; power = base + slope * load */
    const double *idle_w;                /* of a processor that hosts nobody */
    const double *background;            /* rows; load of others */
    const unsigned char *below_top;      /* rows; a higher clock exists */
    const int *pins;                     /* processor of an application that may not move, else -1 */
    double constant_w, limit_w;
} grid_t;

/* class Asked of grid.py */
typedef struct {
    const int64_t *level, *divider;
    const unsigned char *relaxed;
} asked_t;

typedef struct {
    const grid_t *grid;
    double ceiling;                      /* of the load */
    double others_ceiling;               /* of the load with that of others, inf = they do not count */
    int except;                          /* application that is left out, -1 = none */
    double own[MOST_APPS][MOST_ROWS];    /* load it brings, inf where it cannot run */
    double limit[MOST_APPS][MOST_ROWS];  /* total load up to which its deadline holds, -inf likewise */
} problem_t;

typedef struct {
    int fixed, free;
    int fixed_app[MOST_APPS], fixed_at[MOST_APPS], free_app[MOST_FREE];
    int taken[MOST_PROCESSORS];
} hosting_t;

typedef struct {
    double least_w[MOST_PROCESSORS][SUBSETS];
    short row[MOST_PROCESSORS][SUBSETS];
} tables_t;

static int first_row(const grid_t *g, int k) { return k ? g->ends[k - 1] : 0; }

/* Grid.loads */
static void set_loads(problem_t *p, const asked_t *asked)
{
    const grid_t *g = p->grid;
    for (int app = 0; app < g->apps; app++) {
        const double *time_ms = g->time_ms + (app * g->levels + asked->level[app]) * g->rows;
        const double scale = g->load_per_ms[app] / (double)asked->divider[app];
        for (int k = 0; k < g->processors; k++)
            for (int row = first_row(g, k); row < g->ends[k]; row++) {
                const double time = time_ms[row] * g->slowdown[app * g->rows + row];
                const double own = time * scale;
                const double budget = g->budget_ms[app] / (g->margin[app * g->rows + row] * time);
                const double others = (budget - 1.0) / g->contention[row];
                double limit = others >= 0.0 ? own + others : -INFINITY;
                if (asked->relaxed[app])
                    limit = own < INFINITY ? INFINITY : -INFINITY;
                p->own[app][row] = g->pins[app] < 0 || g->pins[app] == k ? own : INFINITY;
                p->limit[app][row] = g->pins[app] < 0 || g->pins[app] == k ? limit : -INFINITY;
            }
    }
}

/* Who can go where at all; 0 = someone cannot go anywhere, or too many have a choice. */
static int host(const problem_t *p, hosting_t *h)
{
    memset(h, 0, sizeof *h);
    const grid_t *g = p->grid;
    for (int app = 0; app < g->apps; app++) {
        int places = 0, place = 0;
        if (app == p->except)
            continue;
        for (int k = 0; k < g->processors; k++)
            for (int row = first_row(g, k); row < g->ends[k]; row++)
                if (p->own[app][row] <= p->limit[app][row]) {
                    if (places++ == 0)
                        place = k;
                    break;
                }
        if (places == 0 || (places > 1 && h->free == MOST_FREE))
            return 0;
        if (places == 1) {
            h->fixed_app[h->fixed] = app;
            h->fixed_at[h->fixed++] = place;
            h->taken[place] = 1;
        } else {
            h->free_app[h->free++] = app;
        }
    }
    return 1;
}

/* Number of subsets that matter at a row: those of the free applications up to the last that can run there. */
static int subsets_at(const problem_t *p, const hosting_t *h, int row)
{
    int bit = h->free;
    while (bit > 0 && !(p->own[h->free_app[bit - 1]][row] <= p->limit[h->free_app[bit - 1]][row]))
        bit--;
    return 1 << bit;
}

/* Load and load limit of one row for the first `subsets` subsets of the free applications. */
static void fill(const problem_t *p, const hosting_t *h, int k, int row, int subsets, double *load,
                 double *least)
{
    load[0] = 0.0;
    least[0] = p->ceiling;
    for (int n = 0; n < h->fixed; n++)
        if (h->fixed_at[n] == k) {
            const double limit = p->limit[h->fixed_app[n]][row];
            load[0] += p->own[h->fixed_app[n]][row];
            least[0] = limit < least[0] ? limit : least[0];
        }
    for (int bit = 0; 1 << bit < subsets; bit++) {
        const double own = p->own[h->free_app[bit]][row];
        const double limit = p->limit[h->free_app[bit]][row];
        const int half = 1 << bit;
        for (int s = 0; s < half; s++) {
            load[half + s] = load[s] + own;
            least[half + s] = limit < least[s] ? limit : least[s];
        }
    }
}

/* Least power of every processor for every subset, and the first row that has it. */
static void tabulate(const problem_t *p, const hosting_t *h, tables_t *t)
{
    const grid_t *g = p->grid;
    const int subsets = 1 << h->free;
    double load[SUBSETS], least[SUBSETS];
    for (int k = 0; k < g->processors; k++) {
        double *least_w = t->least_w[k];
        short *first = t->row[k];
        for (int s = 0; s < subsets; s++) {
            least_w[s] = INFINITY;
            first[s] = (short)first_row(g, k);
        }
        for (int row = first_row(g, k); row < g->ends[k]; row++) {
            const double base = g->base_w[row], slope = g->slope_w[row];
            const double others = g->background[row];
            const double most = g->below_top[row] ? p->others_ceiling : INFINITY;
            const int some = subsets_at(p, h, row);
            fill(p, h, k, row, some, load, least);
            for (int s = 0; s < some; s++) {
                const double power = load[s] * slope + base;
                const int better = (load[s] <= least[s]) & (load[s] + others <= most) & (power < least_w[s]);
                least_w[s] = better ? power : least_w[s];
                first[s] = better ? (short)row : first[s];
            }
        }
        if (!h->taken[k])
            least_w[0] = g->idle_w[k];
    }
}

/* out[S] = min over A within S of left[S - A] + right[A] */
static void min_plus(int subsets, const double *left, const double *right, double *out)
{
    for (int set = 0; set < subsets; set++) {
        double best = left[set] + right[0];
        for (int part = set & -set; part; part = (part - set) & set) {
            const double sum = left[set ^ part] + right[part];
            best = sum < best ? sum : best;
        }
        out[set] = best;
    }
}

/* Least power without the constant part, inf = none; where each application goes, and the row of each
 * processor in use (-1 = hosts nobody). */
double dynofa_least_power(const grid_t *g, const asked_t *asked, double ceiling, double others_ceiling,
                          int *mapping, int *rows)
{
    problem_t p = {.grid = g, .ceiling = ceiling, .others_ceiling = others_ceiling, .except = -1};
    hosting_t h;
    tables_t t;
    double sums[MOST_PROCESSORS][SUBSETS], total;
    int rest;
    set_loads(&p, asked);
    if (!host(&p, &h))
        return INFINITY;
    tabulate(&p, &h, &t);
    rest = (1 << h.free) - 1;
    memcpy(sums[0], t.least_w[0], sizeof sums[0]);
    for (int k = 1; k < g->processors - 1; k++)
        min_plus(rest + 1, sums[k - 1], t.least_w[k], sums[k]);
    total = sums[0][rest];
    for (int n = 0; n < h.fixed; n++)
        mapping[h.fixed_app[n]] = h.fixed_at[n];
    for (int k = g->processors - 1; k >= 0; k--) {
        int chosen = k ? 0 : rest;
        if (k) {
            double best = sums[k - 1][rest] + t.least_w[k][0];
            for (int part = rest & -rest; part; part = (part - rest) & rest) {
                const double sum = sums[k - 1][rest ^ part] + t.least_w[k][part];
                if (sum < best) {
                    best = sum;
                    chosen = part;
                }
            }
            if (k == g->processors - 1)
                total = best;
        }
        for (int bit = 0; bit < h.free; bit++)
            if (chosen >> bit & 1)
                mapping[h.free_app[bit]] = k;
        rows[k] = chosen || h.taken[k] ? t.row[k][chosen] : -1;
        rest ^= chosen;
    }
    return total;
}

/* Least power of hosting, for every subset that processor k hosts, all others elsewhere. */
static void set_rests(const grid_t *g, const tables_t *t, int k, int subsets, double *rests)
{
    double total[SUBSETS], other[SUBSETS];
    int seen = 0;
    for (int s = 0; s < subsets; s++)
        total[s] = s ? INFINITY : 0.0;
    for (int j = 0; j < g->processors; j++) {
        if (j == k)
            continue;
        if (seen++ == 0) {
            memcpy(total, t->least_w[j], subsets * sizeof *total);
        } else {
            min_plus(subsets, total, t->least_w[j], other);
            memcpy(total, other, subsets * sizeof *total);
        }
    }
    for (int s = 0; s < subsets; s++)
        rests[s] = total[subsets - 1 - s];
}

/* Whether any sub-network of demand level `level` takes no longer than allowed at some row. */
static int fits(const grid_t *g, int app, int level, double rounding, const double *longest_ms)
{
    const double *time_ms = g->time_ms + (app * g->levels + level) * g->rows;
    for (int k = 0; k < g->processors; k++)
        for (int row = first_row(g, k); row < g->ends[k] && (g->pins[app] < 0 || g->pins[app] == k); row++) {
            const double time = time_ms[row] * g->slowdown[app * g->rows + row] * rounding;
            if (time < INFINITY && time <= longest_ms[row])
                return 1;
        }
    return 0;
}

/* Least divider of `dividers`, then best level, for one application while the demands of all others stay;
 * 0 = none. */
int dynofa_best_for(const grid_t *g, const asked_t *asked, int app, int relaxed, double ceiling,
                    double rounding, int dividers, const int *divider, int *found)
{
    problem_t p = {.grid = g, .ceiling = ceiling, .others_ceiling = INFINITY, .except = app};
    hosting_t h;
    tables_t t;
    double rests[MOST_PROCESSORS][SUBSETS], longest_ms[MOST_ROWS], load[SUBSETS], least[SUBSETS];
    const double budget_ms = relaxed ? INFINITY : g->budget_ms[app];
    set_loads(&p, asked);
    if (!host(&p, &h))
        return 0;
    tabulate(&p, &h, &t);
    const int subsets = 1 << h.free;
    for (int k = 0; k < g->processors; k++)
        set_rests(g, &t, k, subsets, rests[k]);
    for (int d = 0; d < dividers; d++) {
        const double ms_per_load = (double)divider[d] / g->load_per_ms[app];
        for (int k = 0; k < g->processors; k++)
            for (int row = first_row(g, k); row < g->ends[k]; row++) {
                const double margin = g->margin[app * g->rows + row];
                double best = -INFINITY;
                const int some = subsets_at(&p, &h, row);
                fill(&p, &h, k, row, some, load, least);
                for (int s = 0; s < some; s++) {
                    const double left_w = g->limit_w - g->constant_w - rests[k][s] - g->base_w[row];
                    const double by_power = left_w / g->slope_w[row];
                    const double room = (by_power < least[s] ? by_power : least[s]) - load[s];
                    const double in_time = budget_ms / (margin * (1.0 + g->contention[row] * load[s]));
                    const double by_load = room * ms_per_load;
                    const double longest = by_load < in_time ? by_load : in_time;
                    const int possible = (load[s] < INFINITY) & (rests[k][s] < INFINITY) & (longest > best);
                    best = possible ? longest : best;
                }
                longest_ms[row] = best;
            }
        for (int level = 0; level < g->levels; level++)
            if (fits(g, app, level, rounding, longest_ms)) {
                found[0] = divider[d];
                found[1] = level;
                return 1;
            }
    }
    return 0;
}
