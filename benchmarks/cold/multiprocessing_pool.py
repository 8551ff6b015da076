import multiprocessing
import sys
import time

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        result = pool.apply_async(pow, (2, 10)).get()
        print(time.monotonic(), result, flush=True)
