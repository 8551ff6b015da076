import time

from joblib.externals.loky import ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(2) as executor:
        result = executor.submit(pow, 2, 10).result()
        print(time.monotonic(), result, flush=True)
