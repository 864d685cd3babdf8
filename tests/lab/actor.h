/* What the two parts of the actor, actor.c and regions.c, share. */
#include <stdint.h>

/* PAGE: the size of a page of the kernel it runs on, given by the compiler. */

struct region {
	char name[32];
	char *start;
	long pages;
};

extern uint64_t number; /* of this process: the script's, then digits for the forks */

/* Say what went wrong in which line of the script, and end. */
_Noreturn void die(const char *format, ...);

uint64_t mix(uint64_t x);
void fill_page(char *page, uint64_t seed, uint64_t index);
char *align(void *memory);

/* The part of a region that "text" names. */
struct region find(const char *text);

void op_map(char *name, long pages, const char *kind, char *memory);
void op_fill(struct region r, const char *content, uint64_t seed);
void op_thin(struct region r);
void op_read(struct region r);
void op_touch(struct region r);
void op_advise(struct region r, const char *advice);
void op_protect(struct region r, const char *mode);
void op_stripes(struct region r);
void op_node(struct region r, int node);
void op_pin(struct region r);
void op_register(struct region r);
