import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as executor:
        result = executor.submit(pow, 2, 10).result()
        print(time.monotonic(), result, flush=True)
