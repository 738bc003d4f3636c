// Something else under the name of the table, at an odd address.

__attribute__((aligned(16))) static const struct {
    char before;
    char here[200];
} bytes __attribute__((used)) = {0};

__asm__(".globl bheval_backend\n.type bheval_backend, @object\n.set bheval_backend, bytes + 1\n.size bheval_backend, 200");
